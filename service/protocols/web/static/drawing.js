// A surface to draw on, by pointer or by keys. It holds a picture, however it got there.

import { h } from "./dom.js";

const SIDE = 280;
const STEP = 6;
const MOVES = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

/**
 * Make a surface of the form that a network sees.
 * @param {number} ratio of its width to its height.
 * @param {() => void} onDraw called while somebody draws.
 */
export function drawing({ ratio, onDraw }) {
  const width = Math.round(ratio >= 1 ? SIDE : SIDE * ratio);
  const height = Math.round(ratio >= 1 ? SIDE / ratio : SIDE);
  const canvas = h("canvas", {
    width,
    height,
    tabindex: "0",
    role: "img",
    "aria-label": "Picture. Draw with a pointer; or with the arrow keys, and the space bar to set the pen down or lift it",
    "aria-keyshortcuts": "ArrowLeft ArrowRight ArrowUp ArrowDown Space",
  });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const cursor = h("span", { class: "cursor", hidden: true });
  const element = h("div", { class: "drawing" }, canvas, cursor);
  let last = null; // where the pen is, while it is down
  let hand = [width / 2, height / 2]; // where the keys have it
  let isDown = false;
  clear();

  function clear() {
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    last = null;
  }

  function lineTo(point) {
    context.strokeStyle = "#fff";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = SIDE / 14;
    context.beginPath();
    context.moveTo(...(last ?? point));
    context.lineTo(...point);
    context.stroke();
    last = point;
    onDraw();
  }

  function placeOf(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = null;
    lineTo(placeOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) lineTo(placeOf(event));
  });
  canvas.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (event.key === " ") isDown = !isDown;
    else hand = [clamp(hand[0] + move[0], width), clamp(hand[1] + move[1], height)];
    if (!isDown) last = null;
    else lineTo([...hand]);
    cursor.hidden = false;
    cursor.dataset.down = String(isDown);
    cursor.style.setProperty("left", `${(100 * hand[0]) / width}%`);
    cursor.style.setProperty("top", `${(100 * hand[1]) / height}%`);
  });
  canvas.addEventListener("blur", () => {
    cursor.hidden = true;
    isDown = false;
  });

  return {
    element,
    canvas,
    clear,
    /** Show the whole of a picture. */
    put(image) {
      clear();
      const scale = Math.min(width / image.width, height / image.height);
      context.imageSmoothingEnabled = scale < 1;
      const [w, ht] = [image.width * scale, image.height * scale];
      context.drawImage(image, (width - w) / 2, (height - ht) / 2, w, ht);
    },
    /** What is drawn, as a file. */
    file: () => new Promise((done) => canvas.toBlob(done, "image/png")),
  };
}

function clamp(value, most) {
  return Math.max(0, Math.min(most, value));
}
