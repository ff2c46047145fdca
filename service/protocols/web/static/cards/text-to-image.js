// Image generation: pictures from a text or a class; one of them looked at, bent, walked from, added and taken away.

import { ask, call, timingsOf } from "../api.js";
import { h, fill, numberField, slider } from "../dom.js";
import { exchange, offer, takers } from "../exchange.js";
import { anySeed, curl, huggingFace, javascript, keywords, openAi, plainPython, python, triton } from "../snippets.js";
import { latentSliders } from "../latent.js";
import { fileOf, pictureButton, shown, slot } from "../pictures.js";

export function create({ frame, description, metadata }) {
  const { labels = [], latent, max_images: most, input } = description;
  const path = `predict/${frame.path}`;
  const prompt = h("input", { type: "text", value: labels.at(-1) ?? "", maxlength: input?.max_text_characters ?? 1000, onkeydown: (event) => event.key === "Enter" && draw() });
  const seed = numberField("seed", { min: 0, max: Number.MAX_SAFE_INTEGER, placeholder: "any" });
  const count = numberField("pictures", { min: 1, max: most, value: Math.min(8, most), required: true });
  const truncation = slider("truncation", { min: 0.1, max: 1, step: 0.05, value: latent.truncation, show: (x) => x.toFixed(2) });
  const gallery = h("div", { class: "gallery", role: "group", "aria-label": "Pictures" });
  const status = h("p", { class: "visually-hidden", role: "status" });
  const large = h("div", { class: "large" });
  const about = h("p", { class: "small muted" });
  const actions = h("div", { class: "row" });
  const sliders = latentSliders(latent, (values) => bend(values));
  const chosen = h("div", { class: "chosen", hidden: true }, h("figure", {}, large, h("figcaption", {}, about)), h("div", { class: "bending" }, h("h3", {}, "Its latent"), sliders.element), actions);
  let last = { json: null };
  let picture = null; // what is looked at

  /** Ask for pictures in JSON, each with what draws it again. */
  async function request(json) {
    frame.succeed();
    const response = await call(path, { json, headers: { accept: "application/json" } });
    frame.time(timingsOf(response));
    return response.json();
  }

  async function guarded(work) {
    try {
      await work();
    } catch (error) {
      frame.fail(error);
    }
  }

  const draw = (asked) =>
    guarded(async () => {
      const label = asked ?? (input?.reads_texts ? undefined : labels[0]); // something must say what to draw
      const wanted = {
        ...(label ? { label } : {}),
        seed: seed.value ?? anySeed(),
        num_images: count.value ?? 1,
        truncation: truncation.value,
      };
      const json = { ...(label || !input?.reads_texts ? {} : { inputs: prompt.value }), parameters: wanted };
      if (label && input?.reads_texts) prompt.value = label;
      const pictures = await request(json);
      remember(json);
      fill(gallery, pictures.map((one) => pictureButton(one, choose)));
      status.textContent = `${pictures.length} pictures of seed ${wanted.seed}.`;
      choose(pictures[0], gallery.firstChild);
    });

  function remember(json) {
    last = { json };
    frame.calls(calls);
  }

  function choose(one, button) {
    picture = one;
    frame.calls(calls);
    for (const other of frame.body.querySelectorAll(".picture[aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
    button?.setAttribute("aria-pressed", "true");
    chosen.hidden = false;
    look();
    sliders.show(one.latent, canBeSaid(one));
  }

  /** Show what is chosen, large, with all that can be done with it. */
  function look() {
    fill(large, shown(picture));
    const what = picture.label ?? Object.entries(picture.conditions ?? {}).map(([name, weight]) => `${weight.toFixed(2)} ${name}`).join(" + ");
    about.textContent = [what, picture.seed !== undefined && `seed ${picture.seed}`, picture.score !== undefined && `read with ${(100 * picture.score).toFixed(0)} %`].filter(Boolean).join(" \u00b7 ");
    showActions();
  }

  function showActions() {
    fill(
      actions,
      takers().map(([name, take]) => h("button", { type: "button", onclick: () => take(fileOf(picture)) }, `Ask ${name} what it is`)),
      h("a", { class: "button", href: shown(picture).src, download: `${frame.name}.png` }, "Save"),
    );
  }

  /** A point in the space of pictures, as the server takes it. */
  function pointOf(one) {
    return { latent: one.latent, ...(one.label ? { label: one.label } : {}) };
  }

  let bending = false;
  let bent = null;
  async function bend(values) {
    bent = values;
    if (bending) return;
    bending = true;
    await guarded(async () => {
      while (bent) {
        const json = { parameters: { ...pointOf(picture), latent: bent } };
        bent = null;
        [picture] = await request(json);
        remember(json);
        look();
      }
    });
    bending = false;
  }

  // A walk from one picture to another

  const from = slot("from", () => picture, canBeSaid);
  const to = slot("to", () => picture, canBeSaid);
  const steps = numberField("steps", { min: 2, max: most, value: Math.min(9, most), required: true });
  const film = h("div", { class: "film", role: "group", "aria-label": "Pictures on the way", tabindex: "0" });
  const walk = () =>
    guarded(async () => {
      if (!from.picture || !to.picture) throw new Error("Put a picture at both ends: choose one above, then press the place.");
      const json = { parameters: { ...pointOf(from.picture), interpolate: { to: pointOf(to.picture), steps: steps.value ?? 9 } } };
      const pictures = await request(json);
      remember(json);
      fill(film, pictures.map((one) => pictureButton(one, choose)));
      status.textContent = `${pictures.length} pictures on the way.`;
    });

  // a - b + c

  const terms = [slot("a", () => picture, canBeSaid), slot("b", () => picture, canBeSaid), slot("c", () => picture, canBeSaid)];
  const result = h("div", { class: "result", "aria-live": "polite" }, h("span", { class: "muted" }, "?"));
  const add = () =>
    guarded(async () => {
      if (terms.some((term) => !term.picture)) throw new Error("Put a picture in each of the three places: choose one above, then press the place.");
      const weights = [1, -1, 1];
      const json = { parameters: { arithmetic: terms.map((term, index) => ({ ...pointOf(term.picture), weight: weights[index] })) } };
      const [one] = await request(json);
      remember(json);
      fill(result, pictureButton(one, choose));
      status.textContent = "The sum is drawn.";
    });

  /** Whether the server can be told of a picture by one class (or none, where there are none). */
  function canBeSaid(one) {
    return !labels.length || Boolean(one.label);
  }

  async function paint() {
    const parameters = labels.length ? { label: labels[Math.floor(Math.random() * labels.length)], seed: anySeed() } : { seed: anySeed() };
    const [one] = await ask(path, { json: { parameters }, headers: { accept: "application/json" } });
    return fileOf(one);
  }

  function calls() {
    const json = last.json ?? { inputs: prompt.value, parameters: { seed: 1, num_images: count.value ?? 1 } };
    const { inputs, parameters } = json;
    const found = [["curl", curl(path, { json, accept: "application/json" })]];
    const reading = 'for one in answer:\n    print(one.get("label"), one["latent"][:4], len(one["image"]))';
    if (inputs !== undefined) {
      const { seed: said, truncation: cut, num_images: n } = parameters;
      found.push([
        "Python: huggingface_hub",
        `${huggingFace(frame.path)}picture = client.text_to_image(${python(inputs)}${keywords({ seed: said, extra_body: { truncation: cut } })})\npicture.save("picture.png")  # the first of these\n`,
      ]);
      if (frame.isLatest && n <= 10) {
        found.push([
          "Python: openai",
          `import base64\n${openAi()}answer = client.images.generate(${keywords({ model: frame.name, prompt: inputs, n, extra_body: { seed: said } }).slice(2)})\nfor number, one in enumerate(answer.data):\n    with open(f"picture-{number}.png", "wb") as file:\n        file.write(base64.b64decode(one.b64_json))\n`,
        ]);
      }
    } else {
      found.push(["Python", plainPython(path, { json, accept: "application/json", reading })]);
    }
    const isOnePlace = !parameters.interpolate && !parameters.arithmetic;
    if (picture && isOnePlace) found.push(["Python: tritonclient", asTensors()]);
    found.push(["JavaScript", javascript(path, { json, accept: "application/json", reading: "for (const one of await response.json()) console.log(`data:${one.content_type};base64,${one.image}`);" })]);
    return found;
  }

  /** The call of the graph itself for the picture that is looked at: its latent, and a weight for each class. */
  function asTensors() {
    const { head, more } = triton();
    const given = [picture.latent, labels.map((label) => picture.conditions?.[label] ?? 0)];
    const inputs = metadata.inputs.map(
      ({ name }, index) =>
        `values = np.array([${python(given[index])}], np.float32)\n` +
        `inputs.append(triton.InferInput(${python(name)}, values.shape, "FP32"))\ninputs[-1].set_data_from_numpy(values)\n`,
    );
    return (
      `${head}inputs = []\n${inputs.join("")}` +
      `answer = client.infer(${python(frame.name)}, inputs, model_version="${frame.version}"${more})\n` +
      `print(answer.as_numpy(${python(metadata.outputs[0].name)})[0, :, :, 0].tolist())\n`
    );
  }

  frame.body.append(
    h(
      "div",
      { class: "images" },
      h(
        "div",
        { class: "row ask" },
        input?.reads_texts && h("label", { class: "field grow" }, "what to draw ", prompt),
        h("button", { type: "button", class: "primary", onclick: () => draw() }, "Draw"),
      ),
      labels.length > 0 && h("div", { class: "row labels", role: "group", "aria-label": "Classes" }, labels.map((label) => h("button", { type: "button", class: "chip", onclick: () => draw(label) }, label))),
      h("div", { class: "controls" }, count.element, seed.element, truncation.element),
      status,
      gallery,
      chosen,
      h(
        "details",
        { class: "more" },
        h("summary", {}, "Walk from one picture to another"),
        h("p", { class: "small muted" }, "Choose a picture above, and press the place where it belongs."),
        h("div", { class: "row" }, from.element, h("span", { class: "operator", "aria-hidden": "true" }, "\u2192"), to.element, steps.element, h("button", { type: "button", class: "primary", onclick: walk }, "Walk")),
        film,
      ),
      h(
        "details",
        { class: "more" },
        h("summary", {}, "Calculate with pictures: a \u2212 b + c"),
        h("p", { class: "small muted" }, "Choose a picture above, and press the place where it belongs."),
        h("div", { class: "row sums" }, terms[0].element, sign("\u2212"), terms[1].element, sign("+"), terms[2].element, h("button", { type: "button", class: "primary", onclick: add, "aria-label": "Calculate" }, "="), result),
      ),
    ),
  );
  frame.calls(calls);
  frame.sample = () => ({ path, how: { json: { parameters: labels.length ? { label: labels[0] } : {} }, headers: { accept: "image/png" } } });
  exchange.addEventListener("change", () => picture && showActions(), { signal: frame.signal });
  offer("paint", frame.name, paint, frame.signal);
}

function sign(text) {
  return h("span", { class: "operator", "aria-hidden": "true" }, text);
}
