// What the server does at this moment, from its metrics; and a way to give it something to do.

import { call, timingsOf } from "./api.js";
import { h, fill, milliseconds, whole } from "./dom.js";
import { PHASES, readMetrics } from "./metrics.js";
import { barPlot, linePlot } from "./plots.js";

const EVERY_MS = 2000;
const WHILE_SENDING_MS = 500;
const REQUESTS = 200;

export function livePanel() {
  const rate = linePlot("requests a second", ["requests"], (value) => value.toFixed(value < 10 ? 1 : 0));
  const latency = linePlot("time by phase, on average", PHASES, milliseconds);
  const sizes = barPlot("rows in a run, since this page was opened", "runs");
  const waiting = linePlot("at this moment", ["in work", "rows queued"], whole);
  const closed = h("p", { class: "notice", role: "status", hidden: true });
  const plots = h("div", { class: "plots" }, [rate, latency, sizes, waiting].map((plot) => plot.element));
  const picker = h("select", {});
  const button = h("button", { type: "button", class: "primary", onclick: send }, `Send ${REQUESTS} requests`);
  const dots = h("ol", { class: "dots", "aria-hidden": "true" });
  const told = h("p", { class: "told", role: "status" });
  const element = h(
    "section",
    { class: "card live", id: "live", "aria-labelledby": "live-title" },
    h("header", {}, h("p", { class: "eyebrow" }, "the server"), h("h2", { id: "live-title" }, "Live")),
    closed,
    plots,
    h("div", { class: "row" }, h("label", { class: "field inline" }, "model ", picker), button),
    h("p", { class: "small muted" }, "Requests that wait for the same model share its next run. Each square is an answer: the taller, the more rows were in its run."),
    dots,
    told,
  );
  let frames = [];
  let first = null;
  let before = null;
  let timer = 0;
  let isSeen = false;
  let isSending = false;

  async function look() {
    clearTimeout(timer);
    if (document.hidden || !isSeen) return;
    try {
      const response = await call("metrics", { quiet: true });
      show(readMetrics(await response.text()));
      closed.hidden = true;
      plots.hidden = false;
    } catch (error) {
      closed.hidden = false;
      closed.textContent = sayClosed(error);
      plots.hidden = true;
      before = null;
      if ([401, 403, 404].includes(error.status)) return; // and it stays so, until another key or another visit
    }
    timer = setTimeout(look, isSending ? WHILE_SENDING_MS : EVERY_MS);
  }

  function show(found) {
    const now = performance.now();
    first ??= found;
    if (before) {
      const seconds = (now - before.at) / 1000;
      rate.add([Math.max(0, found.requests - before.requests) / seconds]);
      latency.add(
        PHASES.map((phase) => {
          const count = found.phases[phase].count - before.phases[phase].count;
          return count > 0 ? (1000 * (found.phases[phase].sum - before.phases[phase].sum)) / count : NaN;
        }),
      );
    }
    waiting.add([found.inflight, found.queue]);
    const grown = [...found.batches].map(([bound, count]) => [bound, count - (first.batches.get(bound) ?? 0)]);
    const runs = grown.reduce((sum, [, count]) => sum + count, 0);
    const used = grown.findLastIndex(([, count]) => count > 0);
    sizes.show(
      grown.slice(0, Math.max(used + 1, 5)).map(([bound, count], index) => [rangeOf(grown[index - 1]?.[0] ?? 0, bound), Math.max(0, count)]),
      `${whole(Math.max(0, runs))} runs`,
    );
    before = { ...found, at: now };
  }

  async function send() {
    const frame = frames.find((one) => one.name === picker.value);
    if (!frame) return;
    button.disabled = true;
    isSending = true;
    fill(dots);
    told.textContent = `${REQUESTS} requests are on their way.`;
    look();
    const { path, how } = await frame.sample();
    const began = performance.now();
    const batches = [];
    const failures = new Map();
    await Promise.all(
      Array.from({ length: REQUESTS }, async () => {
        try {
          const response = await call(path, how);
          await response.arrayBuffer();
          const { batch } = timingsOf(response);
          batches.push(batch);
          dots.append(h("li", { style: { "--rows": Math.min(16, batch) } }));
        } catch (error) {
          failures.set(error.message, (failures.get(error.message) ?? 0) + 1);
          dots.append(h("li", { class: "failed" }));
        }
      }),
    );
    const seconds = (performance.now() - began) / 1000;
    const shared = batches.filter((rows) => rows > 1).length;
    const average = batches.reduce((sum, rows) => sum + rows, 0) / batches.length;
    told.textContent = [
      `${batches.length} answers in ${seconds.toFixed(2)} s, ${whole(batches.length / seconds)} a second.`,
      batches.length ? ` ${shared} shared a run; on average there were ${average.toFixed(1)} rows in it, at most ${Math.round(Math.max(...batches))}.` : "",
      ...[...failures].map(([message, count]) => ` ${count} were refused: ${message}`),
    ].join("");
    isSending = false;
    button.disabled = false;
    look();
  }

  new IntersectionObserver(([{ isIntersecting }]) => {
    isSeen = isIntersecting;
    if (isSeen) look();
  }).observe(element);
  document.addEventListener("visibilitychange", look);

  return {
    element,
    /** What requests can be sent to. */
    models(found) {
      frames = found.filter((frame) => frame.sample);
      const chosen = picker.value;
      fill(picker, frames.map((frame) => h("option", { value: frame.name, selected: frame.name === chosen }, frame.name)));
      button.disabled = !frames.length || isSending;
      look();
    },
  };
}

function rangeOf(before, bound) {
  if (bound === Infinity) return `over ${before}`;
  return bound - before > 1 ? `${before + 1}\u2013${bound}` : String(bound);
}

function sayClosed(error) {
  if (error.status === 404) return "This server has its metrics on a port of their own (INFERD_METRICS_PORT), so there is nothing to plot here.";
  if (error.status === 401) return `Metrics need a key here: ${error.message}`;
  if (error.status === 403) return `Metrics can't be shown: ${error.message}`;
  return `Metrics can't be read: ${error.message}`;
}
