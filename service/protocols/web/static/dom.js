// Elements made in one expression, and numbers as people read them. No markup is ever parsed: texts stay texts.

/**
 * Make an element: h("p", { class: "small", onclick: f }, "text", child).
 * Functions become listeners, `style` an object of CSS properties, true an empty attribute; null and false are left out.
 */
export function h(tag, attributes, ...children) {
  return made(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes, ...children) {
  return made(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Show these in place of what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

let ids = 0;

/** An id that nothing else on the page has. */
export function uniqueId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

/** A slider with its name before it and its value behind it. */
export function slider(name, { min, max, step, value, show = String, oninput }) {
  const id = uniqueId("slider");
  const output = h("span", { class: "value" }, show(value));
  const input = h("input", { type: "range", id, min, max, step, value });
  input.addEventListener("input", () => {
    output.textContent = show(input.valueAsNumber);
    oninput?.(input.valueAsNumber);
  });
  const element = h("div", { class: "field slider" }, h("span", {}, h("label", { for: id }, name), " ", output), input);
  return {
    element,
    input,
    get value() {
      return input.valueAsNumber;
    },
    set value(number) {
      input.value = number;
      output.textContent = show(number);
    },
  };
}

/** A number to type; empty is null. */
export function numberField(name, attributes) {
  const input = h("input", { type: "number", inputmode: "numeric", ...attributes });
  return {
    element: h("label", { class: "field" }, name, " ", input),
    input,
    get value() {
      return input.value.trim() === "" ? null : input.valueAsNumber;
    },
  };
}

export function percent(share) {
  const value = 100 * share;
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)} %`;
}

export function milliseconds(value) {
  return `${value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)} ms`;
}

export function whole(number) {
  return Math.round(number).toLocaleString("en");
}

/** A sign that can be seen, also where it is white space. */
export function visible(text) {
  return text.replace(/\n/g, "\u21b5").replace(/ /g, "\u2423").replace(/\t/g, "\u21e5") || "\u2205";
}
