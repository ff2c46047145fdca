// Any model as its graph: a form for its inputs, made of its metadata, and what came out.

import { call, timingsOf } from "../api.js";
import { h, fill } from "../dom.js";
import { curl, javascript, plainPython, python, triton } from "../snippets.js";
import { tensorField } from "../tensor-field.js";
import { tensorView } from "../tensor-view.js";

export function create({ frame, description, metadata }) {
  const path = `v2/models/${frame.path}/infer`;
  const fields = metadata.inputs.map((tensor) => tensorField(tensor, changed));
  const outputs = h("div", { class: "outputs", role: "status", "aria-label": "Outputs" });
  const run = h("button", { type: "button", class: "primary", onclick: ask }, "Run");

  function asked() {
    return { inputs: fields.map((field) => field.read()) };
  }

  async function ask() {
    run.disabled = true;
    try {
      const response = await call(path, { json: asked() });
      const { outputs: found } = await response.json();
      fill(outputs, found.map((tensor) => tensorView(tensor, description.labels ?? [])));
      frame.time(timingsOf(response));
      frame.succeed();
    } catch (error) {
      fill(outputs);
      frame.fail(error);
    } finally {
      run.disabled = false;
    }
  }

  function changed() {
    frame.calls(calls);
  }

  function calls() {
    let json;
    try {
      json = asked();
    } catch (error) {
      return [["curl", `# ${error.message}`]];
    }
    const { head, more } = triton();
    const types = { FP64: "float64", FP32: "float32", FP16: "float16", BOOL: "bool_", BYTES: "object_" };
    const lines = json.inputs.map(
      ({ name, shape, datatype, data }) =>
        `values = np.array(${python(data)}, np.${types[datatype] ?? datatype.toLowerCase()}).reshape(${python(shape)})\n` +
        `inputs.append(triton.InferInput(${python(name)}, values.shape, ${python(datatype)}))\ninputs[-1].set_data_from_numpy(values)\n`,
    );
    return [
      ["curl", curl(path, { json })],
      [
        "Python: tritonclient",
        `${head}inputs = []\n${lines.join("")}answer = client.infer(${python(frame.name)}, inputs, model_version="${frame.version}"${more})\n` +
          metadata.outputs.map(({ name }) => `print(answer.as_numpy(${python(name)}))\n`).join(""),
      ],
      ["Python", plainPython(path, { json, reading: 'for one in answer["outputs"]:\n    print(one["name"], one["shape"], one["data"])' })],
      ["JavaScript", javascript(path, { json, reading: "console.log((await response.json()).outputs);" })],
    ];
  }

  frame.body.append(
    h("div", { class: "tensors" }, h("div", { class: "inputs" }, fields.map((field) => field.element), h("div", { class: "row" }, run)), outputs),
  );
  frame.calls(calls);
  frame.sample = () => ({ path, how: { json: asked() } });
}
