// What every card has: its head, a place for errors, how long the answer took, and the calls to copy.

import { h, fill, milliseconds, uniqueId } from "./dom.js";
import { snippetPanel } from "./snippets.js";

/**
 * Make the frame of a card.
 * @param {object} model `name`, `version`, `versions`, `description` (as GET /predict/{model} has it).
 * @param {(version: number) => void} choose called where somebody wants another version.
 */
export function cardFrame(model, choose) {
  const { name, version, versions, description } = model;
  const title = uniqueId("title");
  const alert = h("p", { class: "error", role: "alert", hidden: true });
  const note = h("p", { class: "timings small muted" });
  const body = h("div", { class: "body" });
  const snippets = snippetPanel();
  const ended = new AbortController();
  const versionPicker =
    versions.length > 1 &&
    h(
      "label",
      { class: "field inline" },
      "version ",
      h(
        "select",
        { onchange: (event) => choose(Number(event.target.value)) },
        versions.map((one) => h("option", { value: one, selected: one === version }, String(one))),
      ),
    );
  const element = h(
    "article",
    { class: "card", id: `card-${name}`, "aria-labelledby": title, "data-task": description.task, "data-model": name },
    h(
      "header",
      {},
      h("p", { class: "eyebrow" }, description.task.replaceAll("-", " ")),
      h("h2", { id: title }, description.title),
      h(
        "p",
        { class: "chips" },
        h("code", { class: "chip" }, name),
        versionPicker || h("span", { class: "chip" }, `version ${version}`),
        description.variant && h("span", { class: "chip" }, description.variant),
        h("a", { href: `#/models/${name}/${version}`, "aria-label": `About ${name}` }, "About this model"),
      ),
      h("p", { class: "muted description" }, description.description),
    ),
    alert,
    body,
    note,
    snippets.element,
  );
  return {
    element,
    body,
    name,
    version,
    description,
    /** Ends with the card. */
    signal: ended.signal,
    /** The path of its calls: without the version where that is what answers anyway. */
    path: version === Math.max(...versions) ? name : `${name}/versions/${version}`,
    isLatest: version === Math.max(...versions),
    remove() {
      ended.abort();
      element.remove();
    },
    fail(error) {
      if (error.name === "AbortError") return;
      alert.hidden = false;
      alert.textContent = error.message || String(error);
    },
    succeed() {
      alert.hidden = true;
      alert.textContent = "";
    },
    /** Tell how long an answer took. */
    time({ queue, compute, batch }, ...more) {
      fill(
        note,
        [
          `waited ${milliseconds(queue)}`,
          `computed ${milliseconds(compute)}`,
          `in a run of ${batch} ${batch === 1 ? "row" : "rows"}`,
          ...more,
        ].join(" \u00b7 "),
      );
    },
    /** Tell what calls are on the screen: a function from nothing to [[title, code], ...]. */
    calls: snippets.show,
  };
}
