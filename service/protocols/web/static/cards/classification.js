// Image classification: a picture in, bars of the likeliest classes out, beside what the network was given.

import { addressOf, ask, call, currentKey, timingsOf } from "../api.js";
import { bars } from "../bars.js";
import { h } from "../dom.js";
import { offer } from "../exchange.js";
import { conflated } from "../latest.js";
import { pictureInput } from "../picture-input.js";
import { curl, huggingFace, javascript, keywords, python, triton } from "../snippets.js";

const MOST_BARS = 10;

export function create({ frame, description, metadata }) {
  const { width, height, channels } = description.input.seen_as;
  const top = Math.min(MOST_BARS, description.labels.length);
  const found = bars("The likeliest classes, best first");
  const seen = h("img", { class: "pixels", alt: "", hidden: true });
  const nothing = h("p", { class: "hint" }, "what the network is given");
  const invert = h("input", { type: "checkbox", onchange: look });
  const best = h("p", { class: "visually-hidden", role: "status" });
  const input = pictureInput({
    ratio: width / height,
    signal: frame.signal,
    onError: frame.fail,
    onPicture: look,
  });
  let shown = "";
  let preprocessing = null;

  const asking = conflated(async () => {
    const picture = await input.picture();
    if (!picture) {
      found.clear();
      best.textContent = "";
      seen.hidden = true;
      nothing.hidden = false;
      frame.succeed();
      return;
    }
    const sent = { body: picture, headers: { "content-type": picture.type || "application/octet-stream" } };
    const query = parameters();
    try {
      const [answer, given] = await Promise.all([
        call(`predict/${frame.path}?${query}`, sent),
        call(`playground/models/${frame.name}/versions/${frame.version}/seen?${query}`, sent),
      ]);
      const entries = await answer.json();
      show(await given.blob());
      found.show(entries);
      frame.time(timingsOf(answer));
      frame.succeed();
      best.textContent = `${entries[0].label}, ${Math.round(100 * entries[0].score)} percent`;
    } catch (error) {
      found.clear();
      seen.hidden = true;
      nothing.hidden = false;
      frame.fail(error);
    }
  });

  function look() {
    frame.calls(calls);
    return asking();
  }

  function parameters() {
    const query = new URLSearchParams({ top_k: top });
    if (invert.checked) query.set("invert", String(!description.input.invert));
    return query;
  }

  function show(blob) {
    URL.revokeObjectURL(shown);
    shown = URL.createObjectURL(blob);
    seen.src = shown;
    seen.alt = `The picture as the network is given it: ${width} by ${height} pixels`;
    seen.hidden = false;
    nothing.hidden = true;
  }

  async function save() {
    const picture = await input.picture();
    if (!picture) return;
    const link = h("a", { href: URL.createObjectURL(picture), download: `picture.${picture.type.split("/")[1] ?? "png"}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function calls() {
    const path = `predict/${frame.path}?${parameters()}`;
    const inverted = invert.checked ? !description.input.invert : null;
    const found = [
      ["curl", curl(path, { file: "picture.png", type: "image/png" })],
      [
        "Python: huggingface_hub",
        inverted === null
          ? `${huggingFace(frame.path)}for one in client.image_classification("picture.png"${keywords({ top_k: top })}):\n    print(one.label, one.score)\n`
          : `${huggingFace(`${frame.path}?invert=${inverted ? "true" : "false"}`)}for one in client.image_classification("picture.png"${keywords({ top_k: top })}):\n    print(one.label, one.score)\n`,
      ],
      ["JavaScript", javascript(path, { file: true, type: "image/png", reading: "console.log(await response.json());" })],
    ];
    if (preprocessing) found.splice(2, 0, ["Python: tritonclient", asTensors()]);
    return found;
  }

  /** The call of the graph itself, whose input is the picture that the network sees, normalised as the manifest says. */
  function asTensors() {
    const { head, more } = triton();
    const { mean, std } = preprocessing;
    const seenAt = python(addressOf(`playground/models/${frame.name}/versions/${frame.version}/seen?${parameters()}`));
    const key = currentKey() ? ', {"x-api-key": os.environ["INFERD_KEY"]}' : "";
    return (
      `import io\nimport urllib.request\n${head.replace("import numpy as np\n", "import numpy as np\nfrom PIL import Image\n")}\n` +
      `picture = open("picture.png", "rb").read()\n` +
      `seen = urllib.request.urlopen(urllib.request.Request(${seenAt}, picture${key})).read()\n` +
      `pixels = np.asarray(Image.open(io.BytesIO(seen)), np.float32).reshape(1, ${height}, ${width}, ${channels})\n` +
      `values = ((pixels / 255 - ${python(mean)}) / ${python(std)}).transpose(0, 3, 1, 2).astype(np.float32)\n` +
      `image = triton.InferInput(${python(metadata.inputs[0].name)}, values.shape, "FP32")\nimage.set_data_from_numpy(values)\n` +
      `answer = client.infer(${python(frame.name)}, [image], model_version="${frame.version}"${more})\n` +
      `logits = answer.as_numpy(${python(metadata.outputs[0].name)})[0]\nprint(logits, ${python(description.labels)}[logits.argmax()])\n`
    );
  }

  ask(`playground/models/${frame.name}/versions/${frame.version}/manifest`, { signal: frame.signal }).then((manifest) => {
    preprocessing = manifest.preprocessing;
    frame.calls(calls);
  }, () => {}); // without it there is one call less to copy


  frame.body.append(
    h(
      "div",
      { class: "classification" },
      h(
        "div",
        { class: "given" },
        input.element,
        h(
          "div",
          { class: "row small" },
          h("label", { class: "check" }, invert, "turn brightness round"),
          h("button", { type: "button", class: "quiet", onclick: save }, "Save as a file"),
        ),
      ),
      h(
        "figure",
        { class: "seen" },
        h("div", { class: "frame-of-pixels", style: { "aspect-ratio": `${width} / ${height}` } }, seen, nothing),
        h("figcaption", { class: "small muted" }, `what the network sees: ${width}\u00a0\u00d7\u00a0${height}, ${channels === 1 ? "grey" : "colour"}`),
      ),
      h("div", { class: "answer" }, h("h3", {}, "It says"), found.element, best),
    ),
  );
  frame.calls(calls);
  frame.sample = async () => ({ path: `predict/${frame.path}`, how: { body: await blank(width, height), headers: { "content-type": "image/png" } } });
  offer("take", frame.name, (blob) => {
    frame.element.scrollIntoView();
    return input.take(blob);
  }, frame.signal);
  frame.signal.addEventListener("abort", () => URL.revokeObjectURL(shown));
}

/** A picture of nothing. */
function blank(width, height) {
  return new Promise((done) => h("canvas", { width, height }).toBlob(done, "image/png"));
}
