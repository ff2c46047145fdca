// Small plots. The numbers that matter are text beside them; the lines show how they came about.

import { h, fill, svg } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 64;
const MOST_POINTS = 60;

/** A plot of the last values of one series or several: `names`, and `add([values])` for the next point. */
export function linePlot(title, names, write) {
  const rows = [];
  const lines = names.map((_, index) => svg("path", { class: `line series-${index}` }));
  const numbers = names.map(() => h("b", {}, "\u2026"));
  const element = h(
    "figure",
    { class: "plot" },
    h("figcaption", {}, h("span", { class: "plot-title" }, title), h("span", { class: "plot-numbers" }, names.map((name, index) => h("span", { class: `series series-${index}` }, names.length > 1 && `${name} `, numbers[index])))),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, lines),
  );
  return {
    element,
    add(values) {
      rows.push(values);
      if (rows.length > MOST_POINTS) rows.shift();
      const top = Math.max(1e-9, ...rows.flat().filter(Number.isFinite));
      lines.forEach((line, index) => {
        const points = rows.map((row, x) => [((x + MOST_POINTS - rows.length) * WIDTH) / (MOST_POINTS - 1), row[index]]).filter(([, value]) => Number.isFinite(value));
        line.setAttribute("d", points.map(([x, value], n) => `${n ? "L" : "M"}${x.toFixed(1)} ${(HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(1)}`).join(""));
      });
      // Where nothing happened, the last number stays.
      values.forEach((value, index) => Number.isFinite(value) && (numbers[index].textContent = write(value)));
    },
  };
}

/** A plot of how often something was so large: `show([[name, count], ...])`. */
export function barPlot(title, unit) {
  const columns = h("ol", { class: "columns" });
  const number = h("b", {}, "\u2026");
  const element = h("figure", { class: "plot" }, h("figcaption", {}, h("span", { class: "plot-title" }, title), h("span", { class: "plot-numbers" }, number)), columns);
  return {
    element,
    show(entries, told) {
      const top = Math.max(1, ...entries.map(([, count]) => count));
      number.textContent = told;
      fill(
        columns,
        entries.map(([name, count]) =>
          h("li", { title: `${count} ${unit} of ${name}` }, h("span", { class: "column", style: { "--share": count / top } }), h("span", { class: "visually-hidden" }, `${count} ${unit} of `), h("span", { class: "small" }, name)),
        ),
      );
    },
  };
}
