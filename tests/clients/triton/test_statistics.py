from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.clients.serving import Served, alone_and_with_two_workers
from tests.clients.triton.callers import KINDS, Caller, Loop, array_of

pytestmark = alone_and_with_two_workers

ALWAYS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


def statistics(caller: Caller, *which: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = caller.told("get_inference_statistics", *which).get("model_stats", [])
    return told


def counts(caller: Caller, *which: str) -> Counter[str]:
    """What is counted of one version; gRPC leaves out what is 0."""
    (one,) = statistics(caller, *which)
    counted = Counter({name: one.get(name, 0) for name in ("inference_count", "execution_count")})
    for name in (*ALWAYS, "fail", "cache_hit", "cache_miss"):
        counted[name] = one["inference_stats"].get(name, {}).get("count", 0)
    for batch in one.get("batch_stats", []):
        for name in ("compute_input", "compute_infer", "compute_output"):
            counted[f"{name} of {batch['batch_size']}"] = batch[name]["count"]
    return counted


def test_every_request_is_counted_whichever_worker_answered_it(caller: Caller) -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        own = caller.again()
        for rows in (3, 1, 3):
            array = np.zeros((rows, 3), np.float32)
            own.ask("sums", {"a": array, "b": array})
        own.refused(lambda: own.ask("sums", {"a": array}), 400)
        own.close()
        asked += 1

    before = counts(caller, "sums")
    caller.served.reach_every_worker(ask)
    expected = Counter(inference_count=7 * asked, execution_count=3 * asked, fail=asked)
    expected.update(dict.fromkeys(ALWAYS, 3 * asked))
    for part in ("compute_input", "compute_infer", "compute_output"):
        expected.update({f"{part} of 3": 2 * asked, f"{part} of 1": asked})
    after = counts(caller, "sums")
    after.subtract(before)
    assert +after == expected


def test_requests_that_share_a_run_are_counted_as_such(caller: Caller) -> None:
    before = counts(caller, "identity-fp32")
    results = caller.ask_all("identity-fp32", [[caller.input("x", array_of(number))] for number in range(40)])
    sizes = []
    for number, result in enumerate(results):
        assert result.as_numpy("y").tolist() == [[number]]
        response = result.get_response()
        told = response["parameters"]["batch_size"] if isinstance(response, dict) else None
        sizes.append(told or response.parameters["batch_size"].int64_param)
    after = counts(caller, "identity-fp32")
    after.subtract(before)
    runs = {size: sizes.count(size) // size for size in set(sizes)}
    assert after["inference_count"] == after["success"] == 40
    assert after["execution_count"] == sum(runs.values())
    assert {size: after[f"compute_infer of {size}"] for size in runs} == runs


def test_times_are_counted_in_nanoseconds_and_add_up(caller: Caller) -> None:
    def told() -> dict[str, Any]:
        (one,) = statistics(caller, "slow")
        return one

    def ns(one: dict[str, Any], name: str) -> int:
        return int(one["inference_stats"].get(name, {}).get("ns", 0))

    before = told()
    started = time.time()
    caller.ask("slow", {"x": np.array([100])})
    took_ns = (time.time() - started) * 1e9
    after = told()
    spent = {name: ns(after, name) - ns(before, name) for name in ALWAYS}
    assert took_ns > spent["success"] > sum(spent[name] for name in ALWAYS[1:])
    assert spent["compute_infer"] > 0.3 * took_ns
    assert started - 1 <= after["last_inference"] / 1000 <= time.time() + 1


def test_versions_are_counted_each_by_itself(caller: Caller) -> None:
    before = {version: counts(caller, "swap", version) for version in ("1", "2")}
    caller.ask("swap", {"x": array_of(1)}, model_version="2")
    after = {version: counts(caller, "swap", version) for version in ("1", "2")}
    assert after["1"] == before["1"]
    assert after["2"]["success"] == before["2"]["success"] + 1
    assert [(one["name"], one["version"]) for one in statistics(caller, "swap")] == [
        ("swap", 1),
        ("swap", 2),
        ("swap", 10),
    ]


def test_without_a_name_there_are_all_models(caller: Caller) -> None:
    every = [(one["name"], one["version"]) for one in statistics(caller)]
    assert every == sorted(every)
    assert {("sums", 1), ("swap", 2), ("swap", 10)} < set(every)
    caller.refused(lambda: statistics(caller, "nobody"), 404, "'nobody'")
    caller.refused(lambda: statistics(caller, "swap", "3"), 404, "'3'")


def test_all_clients_are_told_the_same(served: Served, loop: Loop) -> None:
    callers = [Caller(kind, served, loop) for kind in KINDS]
    told = [counts(caller, "sums") for caller in callers]
    assert told == [told[0]] * len(callers)
    for caller in callers:
        caller.close()


def test_metrics_count_every_request_by_protocol_and_status(caller: Caller) -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        own = caller.again()
        own.ask("swap", {"x": array_of(1)})
        own.refused(lambda: own.ask("swap", {"y": array_of(1)}), 400)
        own.refused(lambda: own.ask("nobody", {"y": array_of(1)}), 404)
        own.close()
        asked += 1

    protocol = "grpc" if caller.is_grpc else "open_inference"
    codes = ("OK", "INVALID_ARGUMENT", "NOT_FOUND") if caller.is_grpc else ("200", "400", "404")
    expected = {
        **{f'inferd_requests_total{{code="{code}",protocol="{protocol}"}}': 1 for code in codes},
        'inferd_request_failures_total{model="swap",reason="invalid",version="10"}': 1,
        'inferd_request_failures_total{model="",reason="not_found",version=""}': 1,
        'inferd_request_duration_seconds_count{model="swap",version="10"}': 2,
    }
    before = read(caller, expected)
    caller.served.reach_every_worker(ask)
    after = read(caller, expected)
    assert {name: after[name] - before[name] for name in expected} == {
        name: times * asked for name, times in expected.items()
    }


def test_metrics_tell_workers_apart_and_add_them_up(served: Served) -> None:
    told = scrape(served)
    by_worker = {name: value for name, value in told.items() if name.startswith("inferd_worker_requests_total")}
    if served.workers == 1:
        assert by_worker == {}
        return
    assert told["inferd_workers"] == len(by_worker) == served.workers
    everything = sum(value for name, value in told.items() if name.startswith("inferd_requests_total"))
    assert sum(by_worker.values()) == everything


def read(caller: Caller, names: Iterable[str]) -> dict[str, float]:
    """Read series once they stand still: a request is counted right after its answer, not before."""

    def once() -> dict[str, float]:
        told = scrape(caller.served)
        return {name: told.get(name, 0.0) for name in names}

    last, now = once(), once()
    while last != now:
        last, now = now, once()
    return now


def scrape(served: Served) -> dict[str, float]:
    """Read all metrics."""
    lines = served.server.get("/metrics").splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
