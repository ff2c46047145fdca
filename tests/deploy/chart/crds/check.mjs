// Reads objects from standard input, as a list in JSON; prints what is wrong with each, as a list of lists of texts.
//
// Each is looked at twice: by its project's validator (what is required, of which type, allowed by which pattern), and by
// TypeScript against its project's types, which also refuse fields that there are none of; a cluster drops those unseen.
import fs from "node:fs";
import path from "node:path";
import ts from "typescript";

const models = {
  "gateway.networking.k8s.io/v1 HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
  "keda.sh/v1alpha1 ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
  "monitoring.coreos.com/v1 PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
  "monitoring.coreos.com/v1 ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
};

const objects = JSON.parse(fs.readFileSync(0, "utf8"));
const file = path.resolve("objects.ts");
const lines = [];
const found = objects.map(() => []);
for (const [index, object] of objects.entries()) {
  const model = models[`${object.apiVersion} ${object.kind}`];
  if (!model) {
    found[index].push(`nobody here knows ${object.apiVersion} ${object.kind}`);
    lines.push("");
    continue;
  }
  try {
    new (await import(model))[object.kind](object).validate();
  } catch (error) {
    found[index].push(String(error.message));
  }
  lines.push(`import type { I${object.kind} as I${index} } from "${model}"; export const o${index}: I${index} = ${JSON.stringify(object)};`);
}

const options = { noEmit: true, strict: true, module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext, skipLibCheck: true };
const host = ts.createCompilerHost(options);
const read = host.readFile.bind(host);
const getSourceFile = host.getSourceFile.bind(host);
host.readFile = (name) => (name === file ? lines.join("\n") : read(name));
host.fileExists = ((exists) => (name) => name === file || exists(name))(host.fileExists.bind(host));
host.getSourceFile = (name, version) =>
  name === file ? ts.createSourceFile(name, lines.join("\n"), version) : getSourceFile(name, version);
const program = ts.createProgram([file], options, host);
for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
  const line = diagnostic.file ? diagnostic.file.getLineAndCharacterOfPosition(diagnostic.start).line : 0;
  const text = ts.flattenDiagnosticMessageText(diagnostic.messageText, "\n");
  if (diagnostic.file && diagnostic.file.fileName !== file) throw new Error(`${diagnostic.file.fileName}: ${text}`);
  found[line].push(text);
}
console.log(JSON.stringify(found));
