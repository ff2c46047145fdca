// Where a translator looked: words of both texts, and links between them as strong as its attention was.

import { h, fill, percent, svg } from "./dom.js";

const WEAKEST = 0.06; // links below this would only be haze

/** A figure of one sentence and its translation. `element` shows the links of the word that is pointed at. */
export function alignmentFigure({ source, target, weights }) {
  const [from, to] = [wordsOf(source), wordsOf(target)];
  const links = linksOf(from, to, weights);
  const lines = svg("svg", { "aria-hidden": "true" });
  const told = h("p", { class: "small muted told" }, "Point at a word to see where the network looked.");
  const tops = from.map((word, index) => button(word, "source", index));
  const bottoms = to.map((word, index) => button(word, "target", index));
  const element = h(
    "div",
    { class: "alignment" },
    h("div", { class: "words", role: "group", "aria-label": "Source" }, tops),
    h("div", { class: "between", "aria-hidden": "true" }, lines),
    h("div", { class: "words", role: "group", "aria-label": "Translation" }, bottoms),
    told,
  );
  let chosen = null;

  function button(word, side, index) {
    const show = () => choose(side, index);
    return h("button", { type: "button", class: "word", onpointerenter: show, onfocus: show, onclick: show }, word.text);
  }

  function choose(side, index) {
    chosen = [side, index];
    const own = side === "source" ? tops : bottoms;
    const others = side === "source" ? bottoms : tops;
    const found = links
      .filter((link) => link[side] === index)
      .map((link) => ({ other: side === "source" ? link.target : link.source, weight: link.weight }))
      .sort((one, another) => another.weight - one.weight);
    for (const one of [...tops, ...bottoms]) one.style.setProperty("--weight", 0);
    own[index].style.setProperty("--weight", 1);
    for (const { other, weight } of found) others[other].style.setProperty("--weight", weight.toFixed(3));
    const best = found.slice(0, 3).map(({ other, weight }) => `${others[other].textContent} ${percent(weight)}`);
    const word = own[index].textContent;
    told.textContent = side === "target" ? `For \u201c${word}\u201d it looked at: ${best.join(", ")}` : `It looked at \u201c${word}\u201d for: ${best.join(", ")}`;
    draw();
  }

  /** Draw the links where the words are now. */
  function draw() {
    const box = lines.getBoundingClientRect();
    if (!box.width) return;
    lines.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    fill(
      lines,
      links
        .filter(({ weight }) => weight >= WEAKEST)
        .map((link) => {
          const [a, b] = [tops[link.source].getBoundingClientRect(), bottoms[link.target].getBoundingClientRect()];
          const [x1, x2] = [a.left + a.width / 2 - box.left, b.left + b.width / 2 - box.left];
          const [y1, y2] = [a.bottom - box.top, b.top - box.top];
          const middle = (y1 + y2) / 2;
          const isChosen = chosen && link[chosen[0]] === chosen[1];
          return svg("path", {
            d: `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`,
            class: isChosen ? "link chosen" : chosen ? "link other" : "link",
            style: { "--weight": link.weight.toFixed(3) },
          });
        }),
    );
  }

  const watching = new ResizeObserver(draw);
  watching.observe(element);
  return { element, close: () => watching.disconnect() };
}

/** Pieces put together as words: [{ text, pieces: [index, ...] }]. The end of a sentence is one too, shown as a sign. */
function wordsOf(pieces) {
  const words = [];
  pieces.forEach(({ text }, index) => {
    const begins = /^\s/.test(text) || index === 0 || text === "";
    if (begins) words.push({ text: "", pieces: [] });
    words.at(-1).text += text.trim() || (text === "" ? "\u25a0" : "");
    words.at(-1).pieces.push(index);
  });
  return words;
}

/** How much the translator looked at a source word, on average over the pieces of the target word. */
function linksOf(from, to, weights) {
  return to.flatMap((target, targetIndex) =>
    from.map((source, sourceIndex) => ({
      source: sourceIndex,
      target: targetIndex,
      weight:
        target.pieces.reduce((sum, row) => sum + source.pieces.reduce((part, column) => part + weights[row][column], 0), 0) /
        target.pieces.length,
    })),
  );
}
