"""How many sentences a second a translator gives to many clients at once, beside what its graphs could give.

`make bench-translate`, or with the environment that serves `.venv/serve/bin/python loadtests/bench_translate.py`. It
measures, in one run on one machine, for 1, 8 and 32 clients that ask for a sentence at a time (those of
`sentences.txt`, made up for this, each client beginning at another):

- the limit: ONNX Runtime running the encoder on so many sentences, and the decoder at so many rows (sentences times
  beams) in a bare loop, one thread, as often as the sentences' translations have tokens; nothing searched, padded to
  the one size that most of the sentences have;
- one by one: a server that translates one sentence at a time (`INFERD_MAX_BATCH_ROWS=1`), asked by 8 clients;
- over HTTP: `inferd serve` with one worker and with two, asked by a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from benching import ROOT, add, load, machine, server

from service.repository.bundle import Bundle
from service.repository.translating import translate_alone
from service.tasks.translation import Translation
from service.tensors import Arrays

CLIENTS = (1, 8, 32)
SENTENCES = (ROOT / "loadtests" / "sentences.txt").read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="en-de")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each kind; the median counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of the servers")
    parser.add_argument("--output", type=Path, help="a folder: translation.json and translation.md are written into it")
    given = parser.parse_args()
    bundle = load(given.models, given.model)
    steps = mean_steps(bundle, SENTENCES)
    alone: dict[str, list[float]] = {}
    rows: dict[int, dict[str, list[float]]] = {clients: {} for clients in CLIENTS}
    with ExitStack() as running:
        one_by_one = running.enter_context(server(given.models, 1, batch_rows=1))
        ports = {workers: running.enter_context(server(given.models, workers)) for workers in given.workers}
        # All in turns, so that a machine that drifts drifts for all. A server that nobody asks takes next to nothing.
        for _ in range(given.repeat):
            for name, value in over_http(one_by_one, given.model, 8, given.seconds).items():
                add(alone, name, value)
            for clients in CLIENTS:
                add(rows[clients], "limit", bare(bundle, clients, steps, given.seconds / 4))
                for workers, port in ports.items():
                    for name, value in over_http(port, given.model, clients, given.seconds).items():
                        add(rows[clients], f"{name}, {workers} workers", value)
    result = {"machine": machine(bundle), "mean_steps": steps, **summary(rows, alone, given.workers)}
    written = report(result, given.workers)
    print(written)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "translation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.output / "translation.md").write_text(written + "\n", encoding="utf-8")


def mean_steps(bundle: Bundle, sentences: Sequence[str]) -> float:
    """How many steps the search for a sentence's translation takes on average: as many as its tokens, and the end."""
    task = _task(bundle)
    encoder, decoder = (bundle.sessions[role] for role in task.graphs)
    request, _ = task.parse(list(sentences), {})
    found = translate_alone(request, task, encoder.run, decoder.run, decoder.graph)
    return statistics.mean(len(best.tokens) + 1 for best, *_ in found)


def bare(bundle: Bundle, sentences: int, steps: float, seconds: float) -> float:
    """Sentences a second of the graphs alone."""
    task = _task(bundle)
    encoder, decoder = (bundle.sessions[role] for role in task.graphs)
    encoded = [task.encode(tokens) for tokens in task.parse(SENTENCES, {})[0].sentences]
    ((size, _),) = Counter(map(_size, encoded)).most_common(1)
    alike = [one for one in encoded if _size(one) == size]
    batch = {name: np.concatenate([alike[row % len(alike)][name] for row in range(sentences)]) for name in alike[0]}
    read = encoder.run(batch)
    step = decoder.graph.step
    assert step is not None
    beams = task.slots_a_row
    inputs = {
        name: np.repeat(read[name], beams, axis=0) for name in (*step.context, *(one.input for one in step.states))
    }
    inputs[step.token] = np.full(sentences * beams, task.start, np.int64)

    def one_step() -> None:
        outputs = decoder.run(inputs)
        for pair in step.states:
            inputs[pair.input] = outputs[pair.output]

    return sentences / (_seconds(lambda: encoder.run(batch), seconds / 2) + steps * _seconds(one_step, seconds / 2))


def over_http(port: int, model: str, clients: int, seconds: float) -> dict[str, float]:
    """What a process of its own is given on `clients` connections."""
    command = [sys.executable, str(ROOT / "loadtests" / "ask_translations.py"), str(port), model, str(clients)]
    asked = subprocess.run(
        [*command, str(seconds)], input="\n".join(SENTENCES), check=True, capture_output=True, text=True
    )
    figures: dict[str, float] = json.loads(asked.stdout)
    return figures


def summary(
    rows: dict[int, dict[str, list[float]]], alone: dict[str, list[float]], workers: Sequence[int]
) -> dict[str, Any]:
    """Medians, and the ratios that are promised."""
    one_by_one = {name: statistics.median(values) for name, values in alone.items()}
    result: dict[str, Any] = {"one_by_one": one_by_one, "clients": {}}
    for clients, measured in rows.items():
        median = {name: statistics.median(values) for name, values in measured.items()}
        entry: dict[str, Any] = {"limit_sentences_per_s": median["limit"]}
        for count in workers:
            given = median[f"sentences_per_s, {count} workers"]
            entry[f"http_{count}_workers"] = {
                "sentences_per_s": given,
                "of_limit": given / median["limit"],
                "times_one_by_one": given / one_by_one["sentences_per_s"],
                "p50_s": median[f"p50_s, {count} workers"],
                "p95_s": median[f"p95_s, {count} workers"],
            }
        result["clients"][clients] = entry
    return result


def report(result: dict[str, Any], workers: Sequence[int]) -> str:
    """The summary as Markdown."""
    one_by_one = result["one_by_one"]
    lines = [
        "# Translation beside the limit of its graphs",
        "",
        "Written by `make bench-translate`. On "
        + "; ".join(f"{name} {value}" for name, value in result["machine"].items())
        + ".",
        "",
        f"A sentence takes {result['mean_steps']:.1f} steps. The limit is that of one thread; server and clients share "
        "the cores.",
        "",
        f"One by one, 8 clients: {one_by_one['sentences_per_s']:.1f} sentences/s, "
        f"p50 {1000 * one_by_one['p50_s']:.0f} ms, p95 {1000 * one_by_one['p95_s']:.0f} ms.",
        "",
        "| clients | workers | limit, sentences/s | sentences/s | of the limit | times one by one | p50 ms | p95 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for clients, entry in result["clients"].items():
        for count in workers:
            http = entry[f"http_{count}_workers"]
            lines.append(
                f"| {clients} | {count} | {entry['limit_sentences_per_s']:.1f} | {http['sentences_per_s']:.1f} "
                f"| {http['of_limit']:.0%} | {http['times_one_by_one']:.1f} | {1000 * http['p50_s']:.0f} "
                f"| {1000 * http['p95_s']:.0f} |"
            )
    return "\n".join(lines)


def _size(encoded: Arrays) -> int:
    """To how many tokens a sentence is padded."""
    return max(array.shape[-1] for array in encoded.values())


def _task(bundle: Bundle) -> Translation:
    if not isinstance(bundle.task, Translation):
        raise SystemExit(f"{bundle.folder.name} does not translate")
    return bundle.task


def _seconds(work: Any, budget_s: float) -> float:
    """The median of what `work` takes, over so many seconds."""
    work()
    taken: list[float] = []
    begun = time.perf_counter()
    while not taken or time.perf_counter() - begun < budget_s:
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
