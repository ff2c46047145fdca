// Translation: two panes, the second follows the first; other translations to choose from; where the network looked.

import { alignmentFigure } from "../alignment.js";
import { call, timingsOf } from "../api.js";
import { h, fill } from "../dom.js";
import { conflated, debounced } from "../latest.js";
import { curl, huggingFace, javascript, keywords, python, triton } from "../snippets.js";

const QUIET_MS = 350;
const MOST_ALTERNATIVES = 4;
const EXAMPLES = { en: "I have never seen such a big dog. Where did you find it?", de: "Wir gehen heute ins Kino. Kommst du mit?" };

export function create({ frame, description }) {
  const { source, target, search } = description;
  const languages = new Intl.DisplayNames(["en"], { type: "language" });
  const typed = h(
    "textarea",
    { rows: 4, lang: source, maxlength: description.input.max_text_characters, spellcheck: "false", oninput: debounced(() => translate(), QUIET_MS) },
  );
  typed.value = EXAMPLES[source] ?? "";
  const answer = h("p", { class: "translated", lang: target, role: "status", "aria-label": "Translation" });
  const beams = h(
    "select",
    { onchange: () => translate() },
    Array.from({ length: search.most_beams }, (_, index) => index + 1).map((count) =>
      h("option", { value: count, selected: count === search.num_beams }, count === 1 ? "1 (greedy)" : String(count)),
    ),
  );
  const others = h("ul", { class: "others", "aria-label": "Other translations" });
  const figures = h("div", { class: "figures" });
  let drawn = [];

  const translate = conflated(async () => {
    const inputs = typed.value;
    frame.calls(() => calls(inputs));
    if (!inputs.trim()) {
      answer.textContent = "";
      show([]);
      fill(others);
      return;
    }
    answer.setAttribute("aria-busy", "true");
    try {
      const response = await call(`predict/${frame.path}`, { json: { inputs, parameters: { ...parameters(), return_alignment: true } } });
      const [{ translation_text, alternatives = [], alignment }] = await response.json();
      answer.textContent = translation_text;
      offer(translation_text, alternatives);
      show(alignment);
      frame.time(timingsOf(response));
      frame.succeed();
    } catch (error) {
      answer.textContent = "";
      show([]);
      fill(others);
      frame.fail(error);
    } finally {
      answer.removeAttribute("aria-busy");
    }
  });

  function parameters() {
    const count = Number(beams.value);
    return { num_beams: count, num_return_sequences: Math.min(count, MOST_ALTERNATIVES) };
  }

  /** Show what else the search has found; one that is chosen takes the place of the best, and back. */
  function offer(best, alternatives) {
    const texts = [best, ...alternatives];
    fill(
      others,
      alternatives.length
        ? texts.map((text, index) =>
            h(
              "li",
              {},
              h(
                "button",
                {
                  type: "button",
                  lang: target,
                  "aria-pressed": String(index === 0),
                  onclick: ({ currentTarget }) => {
                    for (const one of others.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one === currentTarget));
                    answer.textContent = text;
                    figures.hidden = index > 0; // where it looked is told of the best alone
                  },
                },
                text,
              ),
            ),
          )
        : [],
    );
  }

  function show(sentences) {
    for (const one of drawn) one.close();
    drawn = sentences.map(alignmentFigure);
    figures.hidden = false;
    fill(figures, drawn.map((one) => one.element));
  }

  function calls(inputs) {
    const json = { inputs, parameters: parameters() };
    const { head, more } = triton();
    const found = [
      ["curl", curl(`predict/${frame.path}`, { json })],
      [
        "Python: huggingface_hub",
        `${huggingFace(frame.path)}answer = client.translation(${python(inputs)}${keywords({ generate_parameters: parameters() })})\nprint(answer.translation_text)\n`,
      ],
      ["JavaScript", javascript(`predict/${frame.path}`, { json, reading: "console.log((await response.json())[0].translation_text);" })],
    ];
    if (frame.isLatest) {
      found.splice(2, 0, [
        "Python: tritonclient",
        `${head}text = triton.InferInput("text_input", [1], "BYTES")\ntext.set_data_from_numpy(np.array([${python(inputs)}], object))\n` +
          `answer = client.infer(${python(frame.name)}, [text], parameters={"num_beams": ${beams.value}}${more})\nprint(answer.as_numpy("text_output")[0].decode())\n`,
      ]);
    }
    return found;
  }

  frame.body.append(
    h(
      "div",
      { class: "translation" },
      h(
        "div",
        { class: "panes" },
        h("label", { class: "field pane" }, h("span", {}, languages.of(source)), typed),
        h("div", { class: "pane" }, h("span", { class: "label" }, languages.of(target)), answer),
      ),
      h("div", { class: "row" }, h("label", { class: "field inline" }, "beams ", beams), h("span", { class: "small muted" }, "as many beginnings are kept while it searches")),
      others,
      figures,
    ),
  );
  frame.signal.addEventListener("abort", () => show([]));
  frame.calls(() => calls(typed.value));
  frame.sample = () => ({ path: `predict/${frame.path}`, how: { json: { inputs: typed.value || "Hello." } } });
  translate();
}
