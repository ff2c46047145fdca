// Text generation: a text that grows as it is written, each character tinted by how likely it was, its alternatives beside.

import { call, events } from "../api.js";
import { bars } from "../bars.js";
import { h, fill, milliseconds, numberField, percent, slider, visible, whole } from "../dom.js";
import { anySeed, curl, huggingFace, javascript, keywords, openAi, triton } from "../snippets.js";

const ALTERNATIVES = 6;
const USUAL_LENGTH = 300;

export function create({ frame, description }) {
  const { parameters: limits, input } = description;
  const most = input.max_new_tokens;
  const prompt = h("textarea", { rows: 3, placeholder: "how it begins; nothing is the start of a text", spellcheck: "false", oninput: changed });
  const temperature = slider("temperature", { min: 0, max: 2, step: 0.05, value: 0.8, show: (x) => x.toFixed(2), oninput: changed });
  const topP = slider("top-p", { min: 0.05, max: 1, step: 0.05, value: 1, show: (x) => x.toFixed(2), oninput: changed });
  const length = numberField("characters", { min: limits.max_new_tokens.minimum, max: most, value: Math.min(USUAL_LENGTH, most), required: true, oninput: changed });
  const seed = numberField("seed", { min: 0, max: Number.MAX_SAFE_INTEGER, placeholder: "any", oninput: changed });
  const start = h("button", { type: "button", class: "primary", onclick: () => write(prompt.value) }, "Write");
  const stop = h("button", { type: "button", disabled: true, onclick: () => writing?.abort() }, "Stop");
  const text = h("div", {
    class: "written",
    tabindex: "0",
    role: "group",
    "aria-label": "What it wrote. The arrow keys go from character to character",
  });
  const numbers = h("p", { class: "numbers small", "aria-hidden": "true" });
  const status = h("p", { class: "visually-hidden", role: "status" });
  const here = h("p", { class: "small muted" }, "Point at a character, or go through the text with the arrow keys.");
  const likely = bars("What might have stood there");
  const choices = h("div", { class: "choices row" });
  let writing = null;
  let isFollowed = true; // until somebody scrolls back
  let tokens = []; // { text, logprob, top: [{ text, logprob }] }
  let place = -1;
  let used = null; // what was asked for what is shown
  let next = anySeed(); // what is taken where nobody says one: known beforehand, so that the calls to copy have it too

  function parameters() {
    return {
      max_new_tokens: length.value ?? limits.max_new_tokens.default,
      temperature: temperature.value,
      top_p: topP.value,
      seed: seed.value ?? next,
    };
  }

  function changed() {
    used = null;
    frame.calls(calls);
  }

  /** Have a text continued, and show how it grows. */
  async function write(beginning) {
    writing?.abort();
    const mine = new AbortController();
    writing = mine;
    tokens = [];
    place = -1;
    isFollowed = true;
    fill(text, h("span", { class: "prompt" }, beginning));
    fill(numbers);
    likely.clear();
    fill(choices);
    frame.succeed();
    start.disabled = true;
    stop.disabled = false;
    status.textContent = "It writes.";
    const asked = parameters();
    used = { inputs: beginning, parameters: asked };
    next = anySeed();
    const began = performance.now();
    let last = null;
    try {
      const response = await call(`predict/${frame.path}`, {
        json: { inputs: beginning, parameters: { ...asked, top_n_tokens: ALTERNATIVES }, stream: true },
        signal: AbortSignal.any([mine.signal, frame.signal]),
      });
      for await (const event of events(response)) {
        if (!event.token.special) add(event.token, event.top_tokens ?? []);
        follow(began);
        last = event.details ?? last;
      }
      if (last) {
        frame.time(
          { queue: last.queue_ms, compute: last.compute_ms, batch: last.batch_size },
          `first after ${milliseconds(last.time_to_first_token_ms)}`,
          `seed ${asked.seed}`,
        );
      }
      status.textContent = `It has written ${tokens.length} characters.`;
    } catch (error) {
      frame.fail(error);
      status.textContent = error.name === "AbortError" ? `Stopped after ${tokens.length} characters.` : "";
    } finally {
      if (writing === mine) {
        writing = null;
        start.disabled = false;
        stop.disabled = true;
        frame.calls(calls);
        cancelAnimationFrame(awaited);
        awaited = 0;
        if (tokens.length) tell(performance.now() - began, true);
      }
    }
  }

  function add(token, top) {
    const index = tokens.length;
    tokens.push({ text: token.text, logprob: token.logprob, top });
    // How unexpected it was: 0 where it was certain, 1 at a probability of one in a thousand and below.
    const surprise = Math.min(1, -token.logprob / Math.log(1000));
    text.append(h("span", { class: "token", "data-index": index, style: { "--surprise": surprise.toFixed(3) } }, token.text));
  }

  // What costs a layout is done once a frame, however many characters have come.
  let awaited = 0;
  function follow(began) {
    awaited ||= requestAnimationFrame(() => {
      awaited = 0;
      if (isFollowed) text.scrollTop = text.scrollHeight;
      if (tokens.length) tell(performance.now() - began);
    });
  }

  // From the request on: characters come several at a time, and between the first of them and the last is hardly any time.
  function tell(taken_ms, isAll) {
    const bits = tokens.reduce((sum, token) => sum - token.logprob, 0) / tokens.length / Math.LN2;
    fill(
      numbers,
      h("b", {}, whole(tokens.length)),
      " characters \u00b7 ",
      h("b", {}, whole(tokens.length / (taken_ms / 1000))),
      " tokens/s \u00b7 ",
      h("b", {}, bits.toFixed(2)),
      ` bits a character${isAll ? ` \u00b7 ${milliseconds(taken_ms)} in all` : ""}`,
    );
  }

  /** Show what might have stood at a place. */
  function look(index) {
    if (!tokens[index]) return;
    text.querySelector(".token.here")?.classList.remove("here");
    place = index;
    text.querySelector(`[data-index="${index}"]`).classList.add("here");
    const { text: written, logprob, top } = tokens[index];
    const entries = top.some((one) => one.text === written) ? top : [...top, { text: written, logprob }];
    fill(here, "Here it wrote ", h("code", {}, visible(written)), `, which had ${percent(Math.exp(logprob))}.`);
    likely.show(entries.map((one) => ({ label: visible(one.text), score: Math.exp(one.logprob) })));
    fill(
      choices,
      h("span", { class: "small muted" }, "write on with"),
      entries
        .filter((one) => one.text !== written)
        .map((one) =>
          h(
            "button",
            { type: "button", "aria-label": `Write on with ${visible(one.text)} here`, onclick: () => write(before(index) + one.text) },
            visible(one.text),
          ),
        ),
    );
  }

  function before(index) {
    return text.querySelector(".prompt").textContent + tokens.slice(0, index).map((token) => token.text).join("");
  }

  text.addEventListener("scroll", () => {
    isFollowed = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
  });
  text.addEventListener("pointerover", (event) => {
    const token = event.target.closest(".token");
    if (token) look(Number(token.dataset.index));
  });
  text.addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    if (token) look(Number(token.dataset.index));
  });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || !tokens.length) return;
    event.preventDefault();
    look(Math.max(0, Math.min(tokens.length - 1, place + step)));
    text.querySelector(".token.here").scrollIntoView({ block: "nearest" });
    status.textContent = here.textContent;
  });

  function calls() {
    const inputs = used?.inputs ?? prompt.value;
    const asked = used?.parameters ?? parameters();
    const json = { inputs, parameters: asked };
    const { max_new_tokens: max_tokens, ...others } = asked;
    const found = [
      ["curl", curl(`predict/${frame.path}`, { json })],
      ["Python: huggingface_hub", `${huggingFace(frame.path)}print(client.text_generation(${JSON.stringify(inputs)}${keywords(asked)}))\n`],
      ["JavaScript", javascript(`predict/${frame.path}`, { json, reading: "console.log((await response.json())[0].generated_text);" })],
    ];
    if (frame.isLatest) {
      found.splice(1, 0, [
        "Python: openai",
        `${openAi()}answer = client.completions.create(${keywords({ model: frame.name, prompt: inputs, max_tokens, ...others }).slice(2)})\nprint(answer.choices[0].text)\n`,
      ]);
      const { head, more } = triton();
      found.splice(3, 0, [
        "Python: tritonclient",
        `${head}prompt = triton.InferInput("text_input", [1], "BYTES")\nprompt.set_data_from_numpy(np.array([${JSON.stringify(inputs)}], object))\n` +
          // Triton's client has no fractions among its parameters: as texts they arrive as they are.
          `parameters = {${Object.entries({ max_tokens, ...others }).map(([name, value]) => `"${name}": ${Number.isInteger(value) ? value : `"${value}"`}`).join(", ")}}\n` +
          `answer = client.infer(${JSON.stringify(frame.name)}, [prompt], parameters=parameters${more})\nprint(answer.as_numpy("text_output")[0].decode())\n`,
      ]);
    }
    return found;
  }

  frame.body.append(
    h(
      "div",
      { class: "text-generation" },
      h(
        "div",
        { class: "asked" },
        h("label", { class: "field" }, "prompt ", prompt),
        h("div", { class: "controls" }, temperature.element, topP.element, length.element, seed.element),
        h("div", { class: "row" }, start, stop, numbers),
        status,
      ),
      h("div", { class: "grown" }, text, h("p", { class: "legend small muted" }, "expected ", h("span", { class: "scale" }), " unexpected")),
      h("aside", { class: "alternatives", "aria-label": "Alternatives" }, h("h3", {}, "Instead of this"), here, likely.element, choices),
    ),
  );
  frame.calls(calls);
  frame.sample = () => ({ path: `predict/${frame.path}`, how: { json: { inputs: "", parameters: { max_new_tokens: 32 } } } });
}
