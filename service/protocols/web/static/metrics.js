// The server's metrics as this page needs them: sums over models of counters, histograms and gauges.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const DIALECTS = new Set(["predict", "openai", "libretranslate", "open_inference"]);
export const PHASES = ["queue", "preprocess", "compute", "postprocess"];

/**
 * Read Prometheus's text.
 * @returns {{ requests: number, phases: object, batches: Map<number, number>, queue: number, inflight: number }} totals: requests
 *   by the dialects; by phase { sum, count } in seconds; runs by batch size (at most so many rows); and what is there now.
 */
export function readMetrics(text) {
  const found = {
    requests: 0,
    phases: Object.fromEntries(PHASES.map((phase) => [phase, { sum: 0, count: 0 }])),
    batches: new Map(),
    queue: 0,
    inflight: 0,
  };
  const below = new Map(); // cumulated, as the format has it
  for (const line of text.split("\n")) {
    const [, name, labels = "", written] = LINE.exec(line) ?? [];
    if (!name?.startsWith("inferd_")) continue;
    const value = Number(written);
    const label = (wanted) => [...labels.matchAll(LABEL)].find(([, key]) => key === wanted)?.[2];
    const phase = PHASES.find((one) => name.startsWith(`inferd_${one}_seconds_`));
    if (phase && name.endsWith("_sum")) found.phases[phase].sum += value;
    else if (phase && name.endsWith("_count")) found.phases[phase].count += value;
    else if (name === "inferd_requests_total" && DIALECTS.has(label("protocol"))) found.requests += value;
    else if (name === "inferd_queue_depth") found.queue += value;
    else if (name === "inferd_inflight") found.inflight += value;
    else if (name === "inferd_batch_size_bucket") {
      const bound = Number(label("le").replace("+Inf", "Infinity"));
      below.set(bound, (below.get(bound) ?? 0) + value);
    }
  }
  let before = 0;
  for (const bound of [...below.keys()].sort((one, other) => one - other)) {
    found.batches.set(bound, below.get(bound) - before);
    before = below.get(bound);
  }
  return found;
}
