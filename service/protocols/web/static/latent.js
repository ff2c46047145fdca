// The numbers that a picture is drawn from, as sliders.

import { h } from "./dom.js";

const WIDEST = 3; // further out is nothing that the network has learnt to draw

/** Sliders for all numbers of a latent; `onChange` is told all of them where one is moved. */
export function latentSliders({ size }, onChange) {
  let values = [];
  const inputs = Array.from({ length: size }, (_, index) => {
    const input = h("input", { type: "range", min: -WIDEST, max: WIDEST, step: 0.05, "aria-label": `Number ${index + 1} of the latent` });
    input.addEventListener("input", () => {
      values = [...values];
      values[index] = input.valueAsNumber;
      onChange(values);
    });
    return input;
  });
  const box = h("div", { class: "latent", tabindex: "0", role: "group", "aria-label": `The latent: ${size} numbers` }, inputs);
  const note = h("p", { class: "small muted", hidden: true }, "A sum of several classes is drawn by no single one, so it can't be bent here.");
  const set = (given) => {
    values = given;
    inputs.forEach((input, index) => (input.value = given[index]));
    onChange(values);
  };
  const element = h(
    "div",
    {},
    box,
    note,
    h(
      "div",
      { class: "row small" },
      h("button", { type: "button", onclick: () => set(values.map((value) => value * 0.8)) }, "Nearer to the middle"),
      h("button", { type: "button", onclick: () => set(values.map((value) => value + 0.5 * normal())) }, "Shake"),
    ),
  );
  return {
    element,
    /** Show the numbers of another picture; `canChange`: whether they may be moved. */
    show(given, canChange) {
      values = given;
      inputs.forEach((input, index) => {
        input.value = given[index];
        input.disabled = !canChange;
      });
      for (const button of element.querySelectorAll("button")) button.disabled = !canChange;
      note.hidden = canChange;
    },
  };
}

function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
