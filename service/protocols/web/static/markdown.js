// The Markdown of model cards, as elements: headings, paragraphs, lists, tables, code, pictures, links, emphasis.

import { h } from "./dom.js";

const INLINE = /!\[([^\]]*)\]\(([^)\s]+)\)|\[([^\]]+)\]\(([^)\s]+)\)|`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|(https?:\/\/[^\s<>()|]+[^\s<>()|.,;:])/g;

/**
 * Make elements of a text. Markup in it stays text.
 * @param {string} text the Markdown.
 * @param {(name: string, told: string) => Element} picture makes a picture of the bundle.
 * @returns {Element[]}
 */
export function markdown(text, picture) {
  const lines = text.replace(/\r/g, "").split("\n");
  const made = [];
  const inline = (part) => inlineOf(part, picture);
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const heading = /^(#{1,6}) +(.*)$/.exec(line);
    if (!line.trim()) at += 1;
    else if (line.startsWith("```")) {
      const end = lines.indexOf("```", at + 1);
      const stop = end < 0 ? lines.length : end;
      made.push(h("pre", { tabindex: "0" }, lines.slice(at + 1, stop).join("\n")));
      at = stop + 1;
    } else if (heading) {
      made.push(h(`h${Math.min(6, heading[1].length + 1)}`, {}, inline(heading[2])));
      at += 1;
    } else if (line.startsWith("|")) {
      const stop = endOf(lines, at, (one) => one.startsWith("|"));
      made.push(table(lines.slice(at, stop), inline));
      at = stop;
    } else if (/^[-*] /.test(line)) {
      const stop = endOf(lines, at, (one) => /^[-*] |^ {2,}\S/.test(one));
      const items = lines.slice(at, stop).reduce((found, one) => (/^[-*] /.test(one) ? [...found, one.slice(2)] : [...found.slice(0, -1), `${found.at(-1)} ${one.trim()}`]), []);
      made.push(h("ul", {}, items.map((item) => h("li", {}, inline(item)))));
      at = stop;
    } else {
      const stop = endOf(lines, at, (one) => one.trim() && !/^(#|\||```|[-*] )/.test(one));
      made.push(h("p", {}, inline(lines.slice(at, stop).join(" "))));
      at = stop;
    }
  }
  return made;
}

function endOf(lines, start, belongs) {
  let stop = start + 1;
  while (stop < lines.length && belongs(lines[stop])) stop += 1;
  return stop;
}

function table(lines, inline) {
  const rows = lines.map((line) => line.replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|")));
  const [head, , ...body] = rows;
  return h(
    "div",
    { class: "scrolled", tabindex: "0", role: "group", "aria-label": `Table: ${head.join(", ")}` },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, inline(cell))))), h("tbody", {}, body.map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell))))))),
  );
}

function inlineOf(text, picture) {
  const parts = [];
  let last = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(last, found.index));
    const [all, alt, source, title, target, code, strong, emphasis, address] = found;
    if (source) parts.push(picture(source, alt));
    else if (target) parts.push(link(target, title));
    else if (code) parts.push(h("code", {}, code));
    else if (strong) parts.push(h("strong", {}, strong));
    else if (emphasis) parts.push(h("em", {}, emphasis));
    else parts.push(link(address, address));
    last = found.index + all.length;
  }
  parts.push(text.slice(last));
  return parts;
}

function link(target, title) {
  return /^https?:\/\//.test(target) ? h("a", { href: target, rel: "noreferrer", target: "_blank" }, title) : title;
}
