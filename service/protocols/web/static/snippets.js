// The calls of what is on the screen, to copy: curl, Python with the client that fits, JavaScript.

import { addressOf, changes, currentKey } from "./api.js";
import { h, fill, uniqueId } from "./dom.js";

/** A panel that is shut at first. `show(calls)` takes a function that gives [[title, code], ...] of this moment. */
export function snippetPanel() {
  let calls = () => [];
  let chosen = "";
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "Language" });
  const code = h("code");
  const block = h("pre", { tabindex: "0", role: "group", "aria-label": "The call" }, code);
  const copied = h("span", { class: "small muted", role: "status" });
  const copy = h("button", { type: "button", onclick: () => copyText(code.textContent, copied) }, "Copy");
  const element = h(
    "details",
    { class: "snippets", ontoggle: render },
    h("summary", {}, "Call it yourself"),
    h("div", { class: "row" }, tabs, h("span", { class: "row" }, copied, copy)),
    block,
  );
  changes.addEventListener("key", render);

  function render() {
    if (!element.open) return;
    const known = calls();
    if (!known.some(([title]) => title === chosen)) chosen = known[0]?.[0] ?? "";
    fill(
      tabs,
      known.map(([title]) =>
        h(
          "button",
          {
            type: "button",
            "aria-pressed": String(title === chosen),
            onclick: () => {
              chosen = title;
              render();
              [...tabs.children].find((tab) => tab.textContent === title)?.focus();
            },
          },
          title,
        ),
      ),
    );
    code.textContent = known.find(([title]) => title === chosen)?.[1] ?? "";
    copied.textContent = "";
  }

  return {
    element,
    show(given) {
      calls = given;
      render();
    },
  };
}

async function copyText(text, told) {
  try {
    await navigator.clipboard.writeText(text);
    told.textContent = "Copied";
  } catch {
    // Browsers give pages no clipboard unless they came encrypted, or from this machine.
    told.textContent = "This browser allows no copying here: mark the text";
  }
}

/** A seed that JavaScript, too, knows to the last digit. */
export function anySeed() {
  return Math.floor(Math.random() * 2 ** 31);
}

// Texts of other languages

/** A word for a shell. */
export function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A value as Python writes it. */
export function python(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${python(name)}: ${python(one)}`).join(", ")}}`;
  }
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** Arguments of a call in Python, each behind a comma; those that are not said are left out. */
export function keywords(values) {
  return Object.entries(values)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `, ${name}=${python(value)}`)
    .join("");
}

/**
 * The call by curl.
 * @param {string} path as of `call`.
 * @param {object} what `json`, or the name of a `file` with its `type`; `output`: a file for the answer.
 */
export function curl(path, { json, file, type, output, accept } = {}) {
  const lines = [`curl ${shell(addressOf(path))}`];
  if (currentKey()) lines.push('-H "x-api-key: $INFERD_KEY"');
  if (accept) lines.push(`-H ${shell(`accept: ${accept}`)}`);
  if (json !== undefined) lines.push("-H 'content-type: application/json'", `-d ${shell(JSON.stringify(json))}`);
  if (file) lines.push(`-H 'content-type: ${type}'`, `--data-binary @${file}`);
  if (output) lines.push(`-o ${output}`);
  return lines.join(" \\\n  ");
}

/** The call in JavaScript; `reading` is what is done with `response`. */
export function javascript(path, { json, file, type, accept, reading }) {
  const headers = {};
  if (accept) headers.accept = accept;
  if (json !== undefined) headers["content-type"] = "application/json";
  if (file) headers["content-type"] = type;
  const told = Object.entries(headers).map(([name, value]) => `    ${JSON.stringify(name)}: ${JSON.stringify(value)},`);
  if (currentKey()) told.push('    "x-api-key": key,');
  const body = json !== undefined ? `JSON.stringify(${JSON.stringify(json)})` : "file, // a File or Blob";
  return [
    `const response = await fetch(${JSON.stringify(addressOf(path))}, {`,
    '  method: "POST",',
    "  headers: {",
    ...told,
    "  },",
    `  body: ${body}${body.endsWith("Blob") ? "" : ","}`,
    "});",
    "if (!response.ok) throw new Error(await response.text());",
    reading,
  ].join("\n");
}

/** The call in Python with nothing but what comes with it; `reading` is what is done with `answer`. */
export function plainPython(path, { json, accept, reading }) {
  const headers = { "content-type": "application/json", ...(accept ? { accept } : {}) };
  const key = currentKey() ? ' | {"x-api-key": os.environ["INFERD_KEY"]}' : "";
  return [
    `import json\n${currentKey() ? "import os\n" : ""}import urllib.request\n`,
    `asked = ${python(json)}`,
    "request = urllib.request.Request(",
    `    ${python(addressOf(path))}, json.dumps(asked).encode(), ${python(headers)}${key}`,
    ")",
    "answer = json.load(urllib.request.urlopen(request))",
    `${reading}\n`,
  ].join("\n");
}

/** The beginning of a Python call by Hugging Face's client. */
export function huggingFace(path) {
  const token = currentKey() ? ', token=os.environ["INFERD_KEY"]' : "";
  return `${currentKey() ? "import os\n\n" : ""}from huggingface_hub import InferenceClient\n\nclient = InferenceClient(model=${python(addressOf(`predict/${path}`))}${token})\n`;
}

/** The beginning of a Python call by OpenAI's client. */
export function openAi() {
  const key = currentKey() ? 'os.environ["INFERD_KEY"]' : '"none"';
  return `${currentKey() ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url=${python(addressOf("v1"))}, api_key=${key})\n`;
}

/** The beginning of a Python call by Triton's client, and what each of its calls takes besides. */
export function triton() {
  const address = new URL(addressOf("."));
  const place = address.host + address.pathname.replace(/\/$/, "");
  const encrypted = address.protocol === "https:" ? ", ssl=True" : "";
  return {
    head:
      `${currentKey() ? "import os\n\n" : ""}import numpy as np\nimport tritonclient.http as triton\n\n` +
      `client = triton.InferenceServerClient(${python(place)}${encrypted})\n`,
    more: currentKey() ? ', headers={"x-api-key": os.environ["INFERD_KEY"]}' : "",
  };
}
