// A field for one input of a graph: its shape, where that is open, and its numbers or texts.

import { h, whole } from "./dom.js";

const MOST_WRITTEN = 2048; // elements: more are kept, and told of, but not written out
const MOST_ELEMENTS = 2_000_000;

/** Make the field of a tensor { name, datatype, shape } (-1: any size); `read()` gives it as the protocol has it. */
export function tensorField({ name, datatype, shape }, onChange) {
  const sizes = shape.map((size, axis) =>
    size === -1 ? h("input", { type: "number", min: 1, value: axis === 0 ? 1 : 3, class: "size", "aria-label": `${name}: size of axis ${axis + 1}`, oninput: () => refill() }) : null,
  );
  const text = h("textarea", { rows: 3, spellcheck: "false", "aria-label": `${name}: data`, oninput: written });
  const told = h("p", { class: "small muted" });
  let kept = null; // elements that are too many to be written
  let maker = datatype === "BYTES" ? () => "text" : () => 0;

  function current() {
    return shape.map((size, axis) => (size === -1 ? Math.max(1, Math.trunc(sizes[axis].valueAsNumber) || 1) : size));
  }

  function refill(make = maker) {
    maker = make;
    const count = current().reduce((product, size) => product * size, 1);
    if (count > MOST_ELEMENTS) {
      kept = null;
      text.value = "";
      told.textContent = `${whole(count)} elements are more than this page writes.`;
      return;
    }
    show(Array.from({ length: count }, make));
  }

  function show(data) {
    const isShort = data.length <= MOST_WRITTEN;
    kept = isShort ? null : data;
    text.value = isShort ? data.map((one) => JSON.stringify(one)).join(", ") : "";
    text.placeholder = isShort ? "" : `${whole(data.length)} elements`;
    told.textContent = isShort ? "" : `${whole(data.length)} elements are kept and not written here; what you write takes their place.`;
    onChange();
  }

  function written() {
    kept = null;
    onChange();
  }

  function read() {
    if (kept) return { name, shape: current(), datatype, data: kept };
    const content = text.value.trim();
    let data;
    try {
      // A list as JSON has it, nested or not, with or without its outer brackets.
      data = JSON.parse(content.startsWith("[") && isWhole(content) ? content : `[${content}]`);
    } catch {
      if (datatype !== "BYTES") throw new Error(`${name}: this is no list of values: ${content.slice(0, 40)}`);
      data = [content];
    }
    return { name, shape: current(), datatype, data: data.flat(Infinity) };
  }

  const fills =
    datatype === "BYTES"
      ? []
      : [
          ["zeros", () => (datatype === "BOOL" ? false : 0)],
          ["ones", () => (datatype === "BOOL" ? true : 1)],
          ["random", random(datatype)],
        ];
  const element = h(
    "fieldset",
    { class: "tensor" },
    h("legend", {}, h("code", {}, name), " ", h("span", { class: "chip" }, datatype), " ", h("span", { class: "shape" }, shape.map((size, axis) => [axis ? " \u00d7 " : "", sizes[axis] ?? String(size)]))),
    text,
    told,
    fills.length > 0 && h("div", { class: "row small" }, fills.map(([title, make]) => h("button", { type: "button", onclick: () => refill(make) }, title)), isPicture(shape) && fromPicture()),
  );
  refill(fills.at(-1)?.[1] ?? maker);

  /** Where the shape is that of pictures, one can be put in. */
  function fromPicture() {
    const input = h("input", { type: "file", accept: "image/*" });
    input.addEventListener("change", async () => {
      if (!input.files[0]) return;
      const data = await elementsOf(input.files[0], current(), datatype).catch((error) => error);
      if (data instanceof Error) told.textContent = data.message;
      else show(data);
    });
    return h("label", { class: "button" }, "from a picture", input);
  }

  return { element, read };
}

function isWhole(content) {
  try {
    JSON.parse(content);
    return true;
  } catch {
    return false;
  }
}

function random(datatype) {
  if (datatype === "BOOL") return () => Math.random() < 0.5;
  if (/INT/.test(datatype)) return () => Math.floor(Math.random() * 10);
  return () => Number((2 * Math.random() - 1).toFixed(3));
}

/** Whether a shape is (N, C, H, W) or (N, H, W, C). */
function isPicture(shape) {
  return shape.length === 4 && ([1, 3].includes(shape[1]) || [1, 3].includes(shape[3]));
}

/** The brightness of a picture in the order of `shape`; all of a batch are the same. */
async function elementsOf(file, shape, datatype) {
  const isFirst = [1, 3].includes(shape[1]);
  const [rows, channels, height, width] = isFirst ? shape : [shape[0], shape[3], shape[1], shape[2]];
  const image = await createImageBitmap(file, { resizeWidth: width, resizeHeight: height });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const scale = /INT/.test(datatype) ? (value) => Math.round(value) : (value) => Number((value / 255).toFixed(4));
  const of = (pixel, channel) => {
    const [r, g, b] = data.slice(4 * pixel, 4 * pixel + 3);
    return scale(channels === 1 ? 0.299 * r + 0.587 * g + 0.114 * b : [r, g, b][channel]);
  };
  const one = [];
  const pixels = width * height;
  if (isFirst) for (let channel = 0; channel < channels; channel += 1) for (let pixel = 0; pixel < pixels; pixel += 1) one.push(of(pixel, channel));
  else for (let pixel = 0; pixel < pixels; pixel += 1) for (let channel = 0; channel < channels; channel += 1) one.push(of(pixel, channel));
  return Array.from({ length: rows }, () => one).flat();
}
