// Work that is asked for more often than it can be done: what is newest gets done, what is in between is left out.

/** Do `work` once at a time; calls meanwhile make it be done once more, at the end. */
export function conflated(work) {
  let running = false;
  let wanted = false;
  return async function again() {
    wanted = true;
    if (running) return;
    running = true;
    try {
      while (wanted) {
        wanted = false;
        await work();
      }
    } finally {
      running = false;
    }
  };
}

/** Do `work` when nobody has called for so many milliseconds. */
export function debounced(work, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}
