// The page: which models there are, a card for each, the live panel; or the page of one model.

import { ask } from "./api.js";
import { cardFrame } from "./card.js";
import { h, fill } from "./dom.js";
import { setUpKey } from "./key.js";
import { livePanel } from "./live.js";
import { modelPage } from "./model-page.js";
import { watchModels } from "./models.js";

/** What can be done with each task; all others are tensors. */
const CARDS = {
  "image-classification": () => import("./cards/classification.js"),
  "text-generation": () => import("./cards/text-generation.js"),
  translation: () => import("./cards/translation.js"),
  "text-to-image": () => import("./cards/text-to-image.js"),
  "unconditional-image-generation": () => import("./cards/text-to-image.js"),
};
const TENSORS = () => import("./cards/tensors.js");

const state = document.getElementById("state");
const contents = document.getElementById("contents");
const view = document.getElementById("view");

const cards = new Map(); // by the model's name: { frame, made of which versions, chosen }
const list = h("div", { class: "cards" });
const unready = h("div", { class: "unready" });
const empty = h("p", { class: "notice", hidden: true });
const live = livePanel();
const home = h(
  "div",
  {},
  h("h1", {}, "Try what this server has loaded"),
  h(
    "p",
    { class: "lead" },
    "Every model below answers right now, and nothing leaves this server. ",
    "What you see is what its API says; each card has the call to copy.",
  ),
  empty,
  list,
  unready,
  live.element,
);

let entries = [];
let page = null;

setUpKey();
addEventListener("hashchange", route);
watchModels({
  onChange(found, all) {
    entries = found ?? [];
    empty.hidden = !found || found.length > 0;
    refresh(all);
  },
  onState(told, kind) {
    state.textContent = told;
    state.dataset.kind = kind;
  },
});
route();

/** Show what the address says: a model's page, or all cards. */
function route() {
  const [, kind, name, version] = location.hash.split("/").map(decodeURIComponent);
  page?.close();
  page = null;
  if (kind === "models" && name) {
    page = modelPage(name, version, () => entries);
    fill(view, page.element);
    document.getElementById("main").focus({ preventScroll: true });
    scrollTo(0, 0);
    document.title = `${name} \u00b7 inferd`;
    return;
  }
  document.title = "inferd: playground";
  if (!home.isConnected) fill(view, home);
  const target = kind === "cards" ? document.getElementById(`card-${name}`) : kind === "live" ? live.element : null;
  target?.scrollIntoView();
}

/** Bring the cards to what the server has; those of models that have not changed stay, with all that was typed. */
async function refresh(all) {
  const ready = Map.groupBy(
    entries.filter((entry) => entry.state === "READY"),
    (entry) => entry.name,
  );
  for (const [name, card] of cards) {
    if (!ready.has(name) || all || card.versions !== versionsOf(ready.get(name))) {
      card.frame?.remove();
      cards.delete(name);
    }
  }
  for (const [name, versions] of ready) {
    if (!cards.has(name)) cards.set(name, { versions: versionsOf(versions), frame: null });
  }
  fill(unready, entries.filter((entry) => entry.state !== "READY").map(notReady));
  empty.textContent = "There are no models here yet. A folder models/<name>/<version>/ with a model.onnx in it is one.";
  fill(
    contents,
    h("ul", {}, [...ready.keys()].map((name) => h("li", {}, h("a", { href: `#/cards/${name}` }, name))), h("li", {}, h("a", { href: "#/live" }, "Live"))),
  );
  await Promise.all([...cards].filter(([, card]) => !card.frame && !card.isBuilding).map(([name]) => build(name)));
  live.models([...cards.values()].flatMap((card) => card.frame ?? []));
}

function versionsOf(found) {
  return found.map((entry) => entry.version).join(" ");
}

/** Make the card of a model, where it belongs. */
async function build(name, version) {
  const card = cards.get(name);
  card.isBuilding = true;
  const path = version ? `${name}/versions/${version}` : name;
  try {
    const [description, metadata] = await Promise.all([ask(`predict/${path}`), ask(`v2/models/${path}`)]);
    const load = CARDS[description.task] ?? TENSORS;
    const { create } = await load();
    if (cards.get(name) !== card) return; // it has changed again meanwhile
    const model = { name, version: description.version, versions: description.versions, description };
    const frame = cardFrame(model, (chosen) => build(name, chosen));
    create({ frame, description, metadata });
    card.frame?.remove();
    card.frame = frame;
    const after = [...cards.keys()].slice([...cards.keys()].indexOf(name) + 1);
    const next = after.map((other) => cards.get(other)?.frame?.element).find((other) => other?.isConnected);
    list.insertBefore(frame.element, next ?? null);
  } catch (error) {
    if (cards.get(name) !== card || error.status === 401 || error.status === 403) return; // the field for a key says so
    card.frame?.remove();
    const element = h("article", { class: "card" }, h("h2", {}, name), h("p", { class: "error", role: "alert" }, error.message));
    card.frame = { element, name, remove: () => element.remove(), broken: true };
    list.append(element);
  } finally {
    card.isBuilding = false;
  }
}

function notReady({ name, version, state: told, reason }) {
  return h(
    "article",
    { class: "card small-card" },
    h("h2", {}, name),
    h("p", { class: "chips" }, h("span", { class: "chip" }, `version ${version}`), h("span", { class: "chip warn" }, told.toLowerCase())),
    reason && h("p", { class: "error" }, reason),
  );
}

