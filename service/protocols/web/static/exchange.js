// What cards do for each other without knowing each other: pictures go from whoever draws to whoever tells them apart.

const receivers = new Map();
const painters = new Map();
export const exchange = new EventTarget();

function changed() {
  exchange.dispatchEvent(new Event("change"));
}

/** A card called `name` takes pictures (`take(blob)`), or draws them (`paint()` gives a blob), until `signal` says so. */
export function offer(kind, name, work, signal) {
  const known = kind === "take" ? receivers : painters;
  known.set(name, work);
  signal.addEventListener("abort", () => {
    if (known.get(name) === work) known.delete(name);
    changed();
  });
  changed();
}

export function takers() {
  return [...receivers];
}

export function paintersKnown() {
  return [...painters];
}
