// All that there is to know of a version of a model: figures, graphs, versions, its card with its pictures, its manifest.

import { ask, call, changes } from "./api.js";
import { h, fill, whole } from "./dom.js";
import { markdown } from "./markdown.js";

/** The page of a model; `entries` gives what the server has at this moment. */
export function modelPage(name, version, entries) {
  const element = h("div", { class: "model-page" }, h("p", { class: "muted", role: "status" }, `asking for ${name}\u2026`));
  const addresses = [];
  const ended = new AbortController();

  async function show() {
    const path = version ? `${name}/versions/${version}` : name;
    try {
      const [description, metadata] = await Promise.all([ask(`predict/${path}`), ask(`v2/models/${path}`)]);
      const below = `playground/models/${name}/versions/${description.version}`;
      const manifest = await ask(`${below}/manifest`);
      if (ended.signal.aborted) return;
      fill(element, head(description), facts(description, manifest), figures(description), versions(description), served(metadata), graphs(manifest), h("section", { class: "model-card" }));
      await card(below, manifest);
    } catch (error) {
      if (!ended.signal.aborted) fill(element, h("a", { href: "#/" }, "\u2190 All models"), h("h1", {}, name), h("p", { class: "error", role: "alert" }, error.message));
    }
  }

  function head({ title, description, task, version: found }) {
    return h(
      "header",
      {},
      h("p", {}, h("a", { href: `#/cards/${name}` }, "\u2190 Try it")),
      h("p", { class: "eyebrow" }, task.replaceAll("-", " ")),
      h("h1", {}, title),
      h("p", { class: "chips" }, h("code", { class: "chip" }, name), h("span", { class: "chip" }, `version ${found}`)),
      h("p", { class: "lead" }, description),
      h("p", { class: "row" }, h("button", { type: "button", onclick: () => download(found) }, "Download the manifest")),
    );
  }

  async function download(found) {
    const response = await call(`playground/models/${name}/versions/${found}/manifest`);
    const link = h("a", { href: URL.createObjectURL(await response.blob()), download: `${name}-${found}-manifest.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function facts(description, { provenance, licence }) {
    const data = provenance?.data;
    const known = [
      ["Parameters", whole(description.parameters_count)],
      ["Serves as", description.variant],
      ["Licence", description.licence ?? licence ?? "not said"],
      ["Data", data && [data.url ? h("a", { href: data.url, rel: "noreferrer", target: "_blank" }, data.name) : data.name, ` (${data.licence})`]],
      ["Begun from", provenance?.initial_weights && `${provenance.initial_weights.name} (${provenance.initial_weights.licence})`],
      ["Trained", provenance && `${provenance.created}, on ${provenance.training_hardware}, in ${duration(provenance.training_seconds)}, seed ${provenance.seed}`],
      ["Largest batch", whole(description.limits.max_batch_size)],
    ];
    return section("Facts", h("dl", { class: "facts" }, known.filter(([, value]) => value).map(([title, value]) => h("div", {}, h("dt", {}, title), h("dd", {}, value)))));
  }

  function figures({ quality }) {
    if (!quality.length) return section("Quality", h("p", { class: "muted" }, "Nothing was measured of this model, or nobody has written it down."));
    return section("Quality", table(["metric", "value", "split", "n", "variant", "measured on"], quality.map((one) => [one.metric.replaceAll("_", " "), Number(one.value.toPrecision(5)), one.split, whole(one.n), one.variant, one.hardware])));
  }

  function versions({ version: found }) {
    const known = entries().filter((entry) => entry.name === name);
    return section("Versions", table(["version", "state", "why"], known.map((entry) => [entry.state === "READY" ? h("a", { href: `#/models/${name}/${entry.version}`, "aria-current": Number(entry.version) === found ? "page" : null }, entry.version) : entry.version, entry.state.toLowerCase(), entry.reason])));
  }

  function served({ inputs, outputs }) {
    return section("Tensors that it serves", tensorTable(inputs, outputs));
  }

  function graphs({ variants, default_variant: usual }) {
    const all = Object.entries(variants).flatMap(([variant, { graphs: own }]) => Object.entries(own).map(([role, graph]) => [variant, role, graph]));
    return section(
      "Graphs",
      all.map(([variant, role, graph]) =>
        h("details", { open: variant === usual }, h("summary", {}, h("code", {}, graph.file), ` \u00b7 ${role}, ${variant}`), tensorTable(graph.inputs, graph.outputs)),
      ),
    );
  }

  async function card(below, { files }) {
    const place = element.querySelector(".model-card");
    if (!("README.md" in files)) {
      fill(place, h("p", { class: "muted" }, "There is no card with this model."));
      return;
    }
    const response = await call(`${below}/files/README.md`);
    const picture = (file, told) => {
      const image = h("img", { alt: "" });
      if (file in files) load(image, `${below}/files/${file}`);
      return h("figure", {}, image, h("figcaption", { class: "small muted" }, told));
    };
    fill(place, h("h2", {}, "The card"), h("div", { class: "prose" }, markdown(await response.text(), picture)));
  }

  /** Pictures are fetched as everything else is, since an address in an element brings no key. */
  async function load(image, path) {
    try {
      const address = URL.createObjectURL(await (await call(path)).blob());
      addresses.push(address);
      image.src = address;
    } catch {
      image.remove(); // its words stay
    }
  }

  changes.addEventListener("key", show, { signal: ended.signal });
  show();
  return {
    element,
    close() {
      ended.abort();
      addresses.forEach(URL.revokeObjectURL);
    },
  };
}

function section(title, ...content) {
  return h("section", {}, h("h2", {}, title), content);
}

function tensorTable(inputs, outputs) {
  const row = (kind) => ({ name, datatype, shape }) => [kind, h("code", {}, name), datatype, shape ? shape.join(" \u00d7 ") || "one number" : "any"];
  return table(["", "name", "datatype", "shape"], [...inputs.map(row("in")), ...outputs.map(row("out"))]);
}

function table(head, rows) {
  return h(
    "div",
    { class: "scrolled", tabindex: "0", role: "group", "aria-label": `Table: ${head.filter(Boolean).join(", ")}` },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((cell) => (cell ? h("th", { scope: "col" }, cell) : h("td", {}))))), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))),
  );
}

function duration(seconds) {
  return seconds >= 7200 ? `${(seconds / 3600).toFixed(1)} hours` : seconds >= 120 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds)} s`;
}
