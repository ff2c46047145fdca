// A picture from somebody: dropped, pasted, chosen, drawn, or sent by another card.

import { drawing } from "./drawing.js";
import { h, fill } from "./dom.js";
import { exchange, paintersKnown } from "./exchange.js";

let pastedInto = null; // the field that was used last takes what is pasted

document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (!file || !pastedInto) return;
  event.preventDefault();
  pastedInto(file);
});

/**
 * Make the field.
 * @param {number} ratio of width to height of what the network sees.
 * @param {(isDrawn: boolean) => void} onPicture called where there is another picture.
 * @param {(error: Error) => void} onError called where there is none after all.
 * @param {AbortSignal} signal ends it.
 */
export function pictureInput({ ratio, onPicture, onError, signal }) {
  let file = null; // what is sent: as it came, until somebody draws on it
  let isEmpty = true;
  const board = drawing({
    ratio,
    onDraw() {
      file = null;
      changed(true);
    },
  });
  const hint = h("p", { class: "hint", "aria-hidden": "true" }, "draw here, drop a picture, or paste one");
  const chooser = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp" });
  const others = h("span", { class: "row" });
  const stage = h("div", { class: "stage" }, board.element, hint);
  const element = h(
    "div",
    { class: "picture-input" },
    stage,
    h(
      "div",
      { class: "row" },
      h("label", { class: "button" }, "Choose a picture", chooser),
      h("button", { type: "button", onclick: clear }, "Clear"),
      others,
    ),
  );

  function changed(isDrawn) {
    pastedInto = take;
    isEmpty = false;
    hint.hidden = true;
    onPicture(isDrawn);
  }

  function clear() {
    board.clear();
    file = null;
    isEmpty = true;
    hint.hidden = false;
    onPicture(false);
  }

  /** Take a picture as it is: the server says what is wrong with it. */
  async function take(given) {
    file = given;
    board.clear();
    changed(false);
    try {
      const image = await createImageBitmap(given);
      if (file === given) board.put(image);
    } catch {
      // it can't be shown here
    }
  }

  async function painted(name, paint) {
    try {
      take(await paint());
    } catch (error) {
      onError(new Error(`${name}: ${error.message}`));
    }
  }

  function showPainters() {
    fill(
      others,
      paintersKnown().map(([name, paint]) =>
        h("button", { type: "button", onclick: () => painted(name, paint) }, `Have ${name} draw one`),
      ),
    );
  }

  chooser.addEventListener("change", () => {
    if (chooser.files[0]) take(chooser.files[0]);
    chooser.value = "";
  });
  for (const [kind, isOver] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
    stage.addEventListener(kind, (event) => {
      event.preventDefault();
      stage.classList.toggle("over", isOver);
      if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  }
  pastedInto ??= take;
  signal.addEventListener("abort", () => {
    if (pastedInto === take) pastedInto = null;
  });
  exchange.addEventListener("change", showPainters, { signal });
  showPainters();

  return {
    element,
    take,
    /** The picture as a file; null where there is none. */
    picture: async () => (isEmpty ? null : (file ?? board.file())),
  };
}
