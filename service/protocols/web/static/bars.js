// Shares as bars: the names and numbers are text, the bars only show them.

import { h, fill, percent } from "./dom.js";

/** A list of bars; `show([{ label, score }])` moves those that it has. */
export function bars(name) {
  const element = h("ol", { class: "bars", "aria-label": name });
  return {
    element,
    show(entries, written = percent) {
      const most = Math.max(1, ...entries.map((entry) => Math.abs(entry.score)));
      while (element.children.length > entries.length) element.lastChild.remove();
      while (element.children.length < entries.length) {
        element.append(h("li", {}, h("span", { class: "name" }), h("span", { class: "number" }), h("span", { class: "bar" })));
      }
      entries.forEach(({ label, score }, index) => {
        const [first, second, bar] = element.children[index].children;
        first.textContent = label;
        second.textContent = written(score);
        bar.classList.toggle("negative", score < 0);
        bar.style.setProperty("--share", Math.abs(score) / most);
      });
    },
    clear() {
      fill(element);
    },
  };
}
