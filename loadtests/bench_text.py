"""How many characters a second a text model gives to many readers at once, beside what its graph could give.

`make bench-text`, or with the environment that serves `.venv/serve/bin/python loadtests/bench_text.py`. It measures, in
one run on one machine, for 1, 8, 32 and 64 texts that grow at once:

- the limit: ONNX Runtime running the step graph in a bare loop at that batch size, one thread, nothing sampled;
- one by one: the same engine with one slot, so that a text waits until the one before is done;
- in process: the engine (`Stepper`), with as many texts at once as said, sampled at temperature 1;
- over HTTP: `inferd serve` with one worker and with two, read as server-sent events by a process of its own.

Everything is a ratio to the limit at that batch size, or to one by one. Times between tokens are ratios to a bare step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from service.batching.policy import LatencyProfile, Limits
from service.batching.sampling import Sampling, key_of
from service.batching.sequences import Continuation, SampledGroup
from service.batching.stepper import Stepper
from service.repository.bundle import Bundle, LoadOptions, load_bundle
from service.repository.generation import text_slots
from service.repository.scan import scan
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
STREAMS = (1, 8, 32, 64)
PROMPT = "ROMEO:"
LENGTH = 400
"""Characters a text; prompts and ends are part of what is measured."""


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--model", default="shakespeare")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each kind; the median counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of the servers; none = no HTTP")
    parser.add_argument("--output", type=Path, help="a folder: text.json and text.md are written into it")
    given = parser.parse_args()
    bundle = _load(given.models, given.model)
    prompt = bundle.task.tokens_of(given.prompt)
    rows: dict[int, dict[str, Any]] = {streams: {} for streams in STREAMS}
    for _ in range(given.repeat):  # in turns, so that a machine that drifts drifts for all
        for streams in STREAMS:
            measured = rows[streams]
            _add(measured, "limit", bare_steps(bundle, streams, given.seconds / 4) * streams)
            _add(measured, "in process", asyncio.run(in_process(bundle, prompt, streams, streams, given.seconds)))
        _add(rows[1], "one by one", asyncio.run(in_process(bundle, prompt, 8, 1, given.seconds)))
    for workers in given.workers:
        with server(given.models, workers) as port:
            for _ in range(given.repeat):
                for streams in STREAMS:
                    _add(rows[streams], "limit", bare_steps(bundle, streams, given.seconds / 4) * streams)
                    read = over_http(port, given.model, given.prompt, streams, given.seconds)
                    for name, value in read.items():
                        _add(rows[streams], f"{name}, {workers} workers", value)
    if given.workers:
        with server(given.models, 1, slots=1) as port:
            for _ in range(given.repeat):
                read = over_http(port, given.model, given.prompt, 8, given.seconds)
                _add(rows[1], "one by one over HTTP", read["characters_per_s"])
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
    """Characters a second of the engine, with `streams` readers that begin anew when a text ends."""
    stepper = Stepper(
        text_slots(bundle.session.run, bundle.session.graph, capacity=slots),
        profile=LatencyProfile(((1, 0.0001),)),
        limits=Limits(slots, max(slots, streams) + 1, 1000.0),
        name="bench",
    )
    until = time.perf_counter() + seconds

    async def read(number: int) -> int:
        characters = 0
        seed = number
        while time.perf_counter() < until:
            seed += streams
            changed = asyncio.Event()
            sequence = Continuation(key_of(seed, 0, 0), Sampling(), limit=LENGTH)
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


@contextmanager
def server(models: Path, workers: int, *, slots: int = 64) -> Iterator[int]:
    """A server of the models on a free port, where so many texts grow at once in a worker; the port."""
    environment = {**os.environ, "INFERD_PORT": "0", "INFERD_GRPC_PORT": "", "INFERD_WORKERS": str(workers)}
    environment |= {"INFERD_MODELS": str(models), "INFERD_THREADS": "1", "INFERD_MAX_QUEUE_S": "60"}
    environment["INFERD_MAX_BATCH_ROWS"] = str(slots)
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        found = (re.search(r"running on http://[\d.]+:(\d+)", line) for line in process.stderr or ())
        port = next((int(one[1]) for one in found if one), None)
        if port is None:
            raise RuntimeError("the server ended before it listened")
        _wait_until_ready(port)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=60)


def summary(rows: dict[int, dict[str, list[float]]], workers: list[int]) -> dict[str, Any]:
    """Medians, and the ratios that are promised."""
    one_by_one = statistics.median(rows[1]["one by one"])
    result: dict[str, Any] = {"one_by_one_characters_per_s": one_by_one, "streams": {}}
    if workers:
        over_http_alone = statistics.median(rows[1].pop("one by one over HTTP"))
        result["one_by_one_over_http_characters_per_s"] = over_http_alone
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
            entry[f"http_{count}_workers"] = {
                "characters_per_s": read,
                "of_limit": read / median["limit"],
                "times_one_by_one": read / one_by_one,
                "times_one_by_one_over_http": read / over_http_alone,
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
            "Over HTTP, as events of `generate_stream`; server and reader share the cores. One by one over HTTP: "
            f"{result['one_by_one_over_http_characters_per_s']:,.0f} characters/s.",
            "",
            "| texts at once | workers | characters/s | of the limit | times one by one in process | ... over HTTP "
            "| first token, p95 (bare steps) | between tokens, p99 (bare steps) |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for streams, entry in result["streams"].items():
        for count in workers:
            http = entry[f"http_{count}_workers"]
            lines.append(
                f"| {streams} | {count} | {http['characters_per_s']:,.0f} | {http['of_limit']:.0%} "
                f"| {http['times_one_by_one']:.1f} | {http['times_one_by_one_over_http']:.1f} "
                f"| {http['first_token_p95_steps']:.0f} "
                f"| {http['between_tokens_p99_steps']:.0f} |"
            )
    return "\n".join(lines)


def machine(bundle: Bundle) -> dict[str, Any]:
    """What it was measured on."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    names = re.findall(r"model name\s*:\s*(.*)", described)
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "model": f"{bundle.folder.name} {bundle.folder.version}, {bundle.variant}",
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _load(models: Path, name: str) -> Bundle:
    folders = [folder for folder in scan(models) if folder.name == name]
    if not folders:
        raise SystemExit(f"there is no model {name!r} in {models}")
    return load_bundle(folders[-1], LoadOptions.of(Settings(device="cpu", threads=1, workers=1)))


def _add(measured: dict[str, list[float]], name: str, value: float) -> None:
    measured.setdefault(name, []).append(value)


def _wait_until_ready(port: int) -> None:
    for _ in range(600):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError("the server is not ready")


if __name__ == "__main__":
    main()
