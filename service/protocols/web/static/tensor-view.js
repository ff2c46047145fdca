// An output of a graph to look at: texts, bars, a picture, or a field of shades; and its numbers.

import { bars } from "./bars.js";
import { h, whole } from "./dom.js";

const MOST_BARS = 40;
const MOST_BEST = 10;
const MOST_ROWS = 8;
const MOST_PIXELS = 1_000_000;
const MOST_WRITTEN = 1000;

/** Show a tensor { name, datatype, shape, data }; `labels` are what its last axis is called, if it is that long. */
export function tensorView({ name, datatype, shape, data }, labels) {
  const view = datatype === "BYTES" ? h("ul", {}, data.map((text) => h("li", {}, text))) : numbersView(shape, data.map(Number), labels);
  const written = data.slice(0, MOST_WRITTEN);
  return h(
    "section",
    { class: "output", "data-output": name },
    h("h3", {}, h("code", {}, name), " ", h("span", { class: "chip" }, datatype), " ", h("span", { class: "shape" }, shape.join(" \u00d7 "))),
    view,
    h(
      "details",
      {},
      h("summary", { class: "small" }, data.length > MOST_WRITTEN ? `the first ${whole(MOST_WRITTEN)} of ${whole(data.length)} elements` : "as JSON"),
      h("pre", { tabindex: "0" }, JSON.stringify(written)),
    ),
  );
}

function numbersView(shape, data, labels) {
  if (!data.length) return h("p", { class: "muted" }, "Nothing came out.");
  const last = shape.at(-1) ?? 1;
  const rows = data.length / last;
  if (last === labels.length || (last <= MOST_BARS && rows <= MOST_ROWS)) {
    return h("div", { class: "rows" }, rowsOf(data, last).slice(0, MOST_ROWS).map((row, index) => [rows > 1 && h("h4", { class: "small muted" }, `row ${index + 1}`), barsOf(row, labels)]));
  }
  const picture = pictureShape(shape);
  const summary = h("p", { class: "small muted" }, `from ${short(least(data))} to ${short(most(data))}, ${short(data.reduce((sum, one) => sum + one, 0) / data.length)} on average`);
  if (data.length > MOST_PIXELS) return summary;
  return h("div", {}, picture ? painted(data, ...picture) : painted(data, last, rows, 1, false), summary);
}

function barsOf(row, labels) {
  const list = bars("Values");
  const entries = row.map((score, index) => ({ label: labels.length === row.length ? labels[index] : `[${index}]`, score }));
  const isNamed = labels.length === row.length;
  const shown = isNamed ? entries.sort((one, other) => other.score - one.score).slice(0, MOST_BEST) : entries;
  const scale = Math.max(...shown.map(({ score }) => Math.abs(score))) || 1;
  list.show(shown.map(({ label, score }) => ({ label, score: score / scale })), (share) => short(share * scale));
  return list.element;
}

/** Width, height, channels, whether channels come first: of shapes that are pictures'. */
function pictureShape(shape) {
  if (shape.length < 3) return null;
  const [a, b, c] = shape.slice(-3);
  if ([1, 3].includes(c) && Math.min(a, b) >= 4) return [b, a, c, false];
  if ([1, 3].includes(a) && Math.min(b, c) >= 4) return [c, b, a, true];
  return null;
}

/** The first picture of `data`, from its darkest number to its brightest. */
function painted(data, width, height, channels, isChannelFirst) {
  const canvas = h("canvas", { width, height, class: "pixels field-of-shades", role: "img", "aria-label": `The numbers as shades, ${width} by ${height}` });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const count = width * height;
  const shownData = data.slice(0, count * channels);
  const [low, high] = [least(shownData), most(shownData)];
  for (let pixel = 0; pixel < count; pixel += 1) {
    for (let part = 0; part < 3; part += 1) {
      const channel = channels === 3 ? part : 0;
      const value = shownData[isChannelFirst ? channel * count + pixel : pixel * channels + channel];
      image.data[4 * pixel + part] = high > low ? (255 * (value - low)) / (high - low) : 128;
    }
    image.data[4 * pixel + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function rowsOf(data, length) {
  return Array.from({ length: Math.ceil(data.length / length) }, (_, row) => data.slice(row * length, (row + 1) * length));
}

// Math.min and Math.max take no list of a million numbers.
function least(data) {
  return data.reduce((low, one) => (one < low ? one : low), Infinity);
}

function most(data) {
  return data.reduce((high, one) => (one > high ? one : high), -Infinity);
}

function short(value) {
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}
