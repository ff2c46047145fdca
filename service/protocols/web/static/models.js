// Which models there are. The server is asked again and again while the page is looked at, and not while it shuts us out.

import { ask, changes } from "./api.js";

const EVERY_MS = 5000;
const WHILE_LOADING_MS = 1000;

/**
 * Watch the server's models for as long as the page is there.
 * @param {(entries: object[], all: boolean) => void} onChange called with [{ name, version, state, reason }] at first and
 *   where they change, and with null where the server tells nothing; `all`: nothing is known any more of what was.
 * @param {(told: string, kind: string) => void} onState called with how the server is: good, waiting or bad.
 */
export function watchModels({ onChange, onState }) {
  let before = "";
  let timer = 0;
  let isShutOut = false;

  async function look(all = false) {
    clearTimeout(timer);
    let wait = EVERY_MS;
    try {
      const entries = await ask("v2/repository/index", { json: {} });
      const now = JSON.stringify(entries);
      if (now !== before || all) onChange(entries, all);
      before = now;
      const [told, kind] = stateOf(entries);
      onState(told, kind);
      if (kind === "waiting") wait = WHILE_LOADING_MS;
      isShutOut = false;
    } catch (error) {
      isShutOut = error.status === 401 || error.status === 403;
      if (isShutOut) onChange(null, true);
      onState(isShutOut ? "this server asks for a key" : error.message, "bad");
    }
    clearTimeout(timer);
    if (!isShutOut) timer = setTimeout(() => document.hidden || look(), wait);
  }

  document.addEventListener("visibilitychange", () => !document.hidden && !isShutOut && look());
  changes.addEventListener("key", () => look(true));
  look();
}

function stateOf(entries) {
  const ready = entries.filter((entry) => entry.state === "READY").length;
  const told = `${ready} ${ready === 1 ? "model" : "models"} ready`;
  if (entries.some((entry) => entry.state === "LOADING")) return [`${told}, others load`, "waiting"];
  return ready === entries.length ? [told, "good"] : [`${told}, ${entries.length - ready} not`, "bad"];
}
