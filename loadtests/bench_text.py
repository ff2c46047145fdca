"""How many characters a second a text model gives to many readers at once, beside what its graph could give.

`make bench-text`, or with the environment that serves `.venv/serve/bin/python loadtests/bench_text.py`. It measures, in
one run on one machine, for 1, 8, 32 and 64 texts that grow at once:

- the limit: ONNX Runtime running the step graph in a bare loop at that batch size, one thread, nothing sampled;
- one by one: the same engine with one slot, so that a text waits until the one before is done; in process, and over
  HTTP by a server of one worker with one slot;
- in process: the engine (`Stepper`), with as many texts at once as said, sampled at temperature 1;
- over HTTP: `inferd serve` with one worker and with two, read as server-sent events by a process of its own
  (`read_streams.py`), which shares the cores with the server.

A text has 1,000 characters after a prompt of six, and whoever has one asks for the next. Prompts, ends and requests are
part of what is measured; how all of them begin is not, and the first texts are of different lengths, so that later ones
don't begin and end together. Everything is a ratio to the limit at that batch size, or to one by one. Times between
tokens are ratios to a bare step, of eight of the connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from benching import ROOT, add, load, machine, server

from service.batching.policy import LatencyProfile, Limits
from service.batching.sampling import Sampling, key_of
from service.batching.sequences import Continuation, SampledGroup
from service.batching.stepper import Stepper
from service.repository.bundle import Bundle
from service.repository.generation import text_slots

STREAMS = (1, 8, 32, 64)
PROMPT = "ROMEO:"
LENGTH = 1000
"""Characters a text."""


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="shakespeare")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each kind; the median counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of the servers; none = no HTTP")
    parser.add_argument("--output", type=Path, help="a folder: text.json and text.md are written into it")
    given = parser.parse_args()
    bundle = load(given.models, given.model)
    prompt = bundle.task.tokens_of(given.prompt)
    rows: dict[int, dict[str, Any]] = {streams: {} for streams in STREAMS}
    with ExitStack() as running:
        ports = {workers: running.enter_context(server(given.models, workers)) for workers in given.workers}
        alone = running.enter_context(server(given.models, 1, batch_rows=1)) if ports else None
        # All in turns, so that a machine that drifts drifts for all. A server that nobody asks takes next to nothing.
        for _ in range(given.repeat):
            for streams in STREAMS:
                measured = rows[streams]
                add(measured, "limit", bare_steps(bundle, streams, given.seconds / 4) * streams)
                add(measured, "in process", asyncio.run(in_process(bundle, prompt, streams, streams, given.seconds)))
                for workers, port in ports.items():
                    read = over_http(port, given.model, given.prompt, streams, given.seconds)
                    for name, value in read.items():
                        add(measured, f"{name}, {workers} workers", value)
            add(rows[1], "one by one", asyncio.run(in_process(bundle, prompt, 8, 1, given.seconds)))
            if alone:
                read = over_http(alone, given.model, given.prompt, 8, given.seconds)
                add(rows[1], "one by one over HTTP", read["characters_per_s"])
    result = {"machine": machine(bundle), **summary(rows, given.workers)}
    written = report(result, given.workers)
    print(written)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "text.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (given.output / "text.md").write_text(written + "\n", encoding="utf-8")


def bare_steps(bundle: Bundle, rows: int, seconds: float) -> float:
    """Steps a second of the graph alone, its states fed back."""
    graph, run = bundle.session.graph, bundle.session.run
    step = graph.step
    assert step is not None
    shapes = {tensor.name: (rows, *(tensor.shape or ())[1:]) for tensor in graph.inputs}
    inputs = {pair.input: np.zeros(shapes[pair.input], np.float32) for pair in step.states}
    inputs[step.token] = np.arange(rows, dtype=np.int64) % 7
    for _ in range(20):
        run(inputs)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(10):
            outputs = run(inputs)
            for pair in step.states:
                inputs[pair.input] = outputs[pair.output]
        count += 10
    return count / (time.perf_counter() - started)


async def in_process(bundle: Bundle, prompt: list[int], streams: int, slots: int, seconds: float) -> float:
    """Characters a second of the engine, with `streams` readers that begin anew when a text ends.

    The first texts are of different lengths, as those that `read_streams.py` asks for.
    """
    stepper = Stepper(
        text_slots(bundle.session.run, bundle.session.graph, capacity=slots),
        profile=LatencyProfile(((1, 0.0001),)),
        limits=Limits(slots, max(slots, streams) + 1, 1000.0),
        name="bench",
    )
    until = time.perf_counter() + seconds

    async def read(number: int) -> int:
        characters = 0
        seed, length = number, max(1, LENGTH * (number + 1) // streams)
        while time.perf_counter() < until:
            seed += streams
            changed = asyncio.Event()
            sequence = Continuation(key_of(seed, 0, 0), Sampling(), limit=length)
            length = LENGTH
            group = SampledGroup(prompt, [sequence], changed=changed, streamed=True)
            stepper.submit(group)
            while not group.done:
                await changed.wait()
                changed.clear()
                if time.perf_counter() >= until:
                    characters += len(sequence.tokens)
                    stepper.cancel(group)
                    return characters
            characters += len(sequence.tokens)
        return characters

    started = time.perf_counter()
    characters = sum(await asyncio.gather(*(read(number) for number in range(streams))))
    elapsed = time.perf_counter() - started
    await stepper.drain()
    return characters / elapsed


def over_http(port: int, model: str, prompt: str, streams: int, seconds: float) -> dict[str, float]:
    """What a process of its own reads from `streams` connections: characters a second, and times in seconds."""
    command = [sys.executable, str(ROOT / "loadtests" / "read_streams.py"), str(port), model, prompt]
    command += [str(streams), str(seconds), str(LENGTH)]
    read = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(read.stdout)
    return figures


def summary(rows: dict[int, dict[str, list[float]]], workers: list[int]) -> dict[str, Any]:
    """Medians, and the ratios that are promised; that to one by one over HTTP is the median of each turn's own."""
    one_by_one = statistics.median(rows[1]["one by one"])
    result: dict[str, Any] = {"one_by_one_characters_per_s": one_by_one, "streams": {}}
    if workers:
        alone = rows[1].pop("one by one over HTTP")
        result["one_by_one_over_http_characters_per_s"] = statistics.median(alone)
    for streams, measured in rows.items():
        median = {name: statistics.median(values) for name, values in measured.items()}
        step_s = streams / median["limit"]
        entry: dict[str, Any] = {
            "limit_characters_per_s": median["limit"],
            "step_s": step_s,
            "in_process_characters_per_s": median["in process"],
            "in_process_of_limit": median["in process"] / median["limit"],
            "in_process_times_one_by_one": median["in process"] / one_by_one,
        }
        for count in workers:
            read = median[f"characters_per_s, {count} workers"]
            turns = zip(measured[f"characters_per_s, {count} workers"], alone, strict=True)
            times = sorted(together / one for together, one in turns)
            entry[f"http_{count}_workers"] = {
                "characters_per_s": read,
                "of_limit": read / median["limit"],
                "times_one_by_one": read / one_by_one,
                "times_one_by_one_over_http": statistics.median(times),
                "times_one_by_one_over_http_in_all_turns": times,
                "first_token_p95_steps": median[f"first_token_p95_s, {count} workers"] / step_s,
                "between_tokens_p99_steps": median[f"between_tokens_p99_s, {count} workers"] / step_s,
            }
        result["streams"][streams] = entry
    return result


def report(result: dict[str, Any], workers: list[int]) -> str:
    """The summary as Markdown."""
    lines = [
        "# Text generation beside the limit of its graph",
        "",
        "Written by `make bench-text`. On "
        + "; ".join(f"{name} {value}" for name, value in result["machine"].items())
        + ".",
        "",
        f"One by one, in process: {result['one_by_one_characters_per_s']:,.0f} characters/s.",
        "",
        "| texts at once | limit, characters/s | in process | of the limit | times one by one |",
        "|---|---|---|---|---|",
    ]
    for streams, entry in result["streams"].items():
        lines.append(
            f"| {streams} | {entry['limit_characters_per_s']:,.0f} | {entry['in_process_characters_per_s']:,.0f} "
            f"| {entry['in_process_of_limit']:.0%} | {entry['in_process_times_one_by_one']:.1f} |"
        )
    if workers:
        lines += [
            "",
            f"Over HTTP, as events of `generate_stream`, texts of {LENGTH:,} characters; server and reader share the "
            f"cores. One by one over HTTP: {result['one_by_one_over_http_characters_per_s']:,.0f} characters/s. In "
            "brackets the least and the most of all turns.",
            "",
            "| texts at once | workers | characters/s | of the limit | times one by one in process | ... over HTTP "
            "| first token, p95 (bare steps) | between tokens, p99 (bare steps) |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for streams, entry in result["streams"].items():
        for count in workers:
            http = entry[f"http_{count}_workers"]
            times = http["times_one_by_one_over_http_in_all_turns"]
            lines.append(
                f"| {streams} | {count} | {http['characters_per_s']:,.0f} | {http['of_limit']:.0%} "
                f"| {http['times_one_by_one']:.1f} "
                f"| {http['times_one_by_one_over_http']:.1f} ({times[0]:.1f} to {times[-1]:.1f}) "
                f"| {http['first_token_p95_steps']:.0f} "
                f"| {http['between_tokens_p99_steps']:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
