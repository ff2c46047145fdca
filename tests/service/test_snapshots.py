from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

from service.metrics import Metrics
from service.snapshots import Exposed, Family, Series, Snapshot, merged, render, running_totals, snapshot, total


class Process:
    """The metrics of one process, one of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("requests", "What was \\ asked\nfor.", ("path",), registry=self.registry)
        self.seconds = Histogram("seconds", "How long.", ("path",), buckets=(0.5, 1.0), registry=self.registry)
        self.bytes = Summary("bytes", "How much.", registry=self.registry)
        self.waiting = Gauge("waiting", "How many wait.", ("path",), registry=self.registry)

    def happens(self, path: str, value: float) -> None:
        self.requests.labels(path).inc()
        self.seconds.labels(path).observe(value)
        self.bytes.observe(value)
        self.waiting.labels(path).inc(value)


def of(*values: tuple[str, float]) -> Snapshot:
    process = Process()
    for path, value in values:
        process.happens(path, value)
    return snapshot(process.registry)


def series(one: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, sample.labels): sample.value for family in one for sample in family.series}


def without_times(text: bytes) -> str:
    """A rendering without the series, and their descriptions, of when series were made."""
    return "".join(line for line in text.decode().splitlines(keepends=True) if "_created" not in line)


def gauge(name: str, value: float, **labels: str) -> Snapshot:
    return (Family(name, "", "gauge", (Series(name, tuple(labels.items()), value),)),)


# Values that add up exactly in whatever order.
values = st.integers(0, 2000).map(lambda number: number / 1024)
events = st.lists(st.tuples(st.sampled_from(["/a", "/b", '/"c"\\\n']), values), max_size=8)


@given(st.lists(events, max_size=4))
def test_what_processes_count_adds_up_to_what_one_would_have_counted(processes: list[list[tuple[str, float]]]) -> None:
    added = merged(of(*one) for one in processes)
    assert series(added) == series(of(*(event for one in processes for event in one))) or not processes


@given(st.lists(events, max_size=4))
def test_adding_up_in_steps_comes_to_the_same(processes: list[list[tuple[str, float]]]) -> None:
    parts = [of(*one) for one in processes]
    step: Snapshot = ()
    for part in parts:
        step = merged([step, part])
    assert step == merged(parts)
    assert merged([step]) == step


@given(events)
def test_a_snapshot_travels(happened: list[tuple[str, float]]) -> None:
    one = of(*happened)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Snapshot) == one


@given(events)
def test_the_metrics_of_one_process_are_rendered_as_prometheus_renders_them(happened: list[tuple[str, float]]) -> None:
    process = Process()
    for path, value in happened:
        process.happens(path, value)
    assert render(snapshot(process.registry)).decode() == without_times(generate_latest(process.registry))


def test_the_servers_metrics_are_rendered_as_prometheus_renders_them() -> None:
    metrics = Metrics("1.2.3")
    for version in (1, 2):
        bound = metrics.bind("tiny", version)
        bound.request_seconds.observe(0.25)
        bound.batch_size.observe(3)
        bound.failures["invalid"].inc()
        metrics.watch_queue("tiny", version, lambda: 7.0)
    metrics.count_request("predict", 200)
    metrics.unaddressed("not_found")
    assert metrics.render().decode() == without_times(generate_latest(metrics.registry))
    assert b'inferd_queue_depth{model="tiny",version="2"} 7.0\n' in metrics.render()


def test_values_that_are_no_numbers_are_rendered_as_prometheus_renders_them() -> None:
    registry = CollectorRegistry()
    odd = Gauge("odd", "", ("kind",), registry=registry)
    for kind, value in (("nan", math.nan), ("inf", math.inf), ("-inf", -math.inf), ("large", 2.0**70)):
        odd.labels(kind).set(value)
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot(registry)), type=Snapshot)
    assert render(travelled) == generate_latest(registry)


def test_families_and_series_come_in_the_order_in_which_they_were_first_seen() -> None:
    first, second = of(("/a", 1), ("/b", 1)), of(("/c", 1), ("/a", 1))
    added = merged([first, second])
    assert [family.name for family in added] == [family.name for family in first]
    assert [sample.labels for sample in added[0].series] == [(("path", path),) for path in ("/a", "/b", "/c")]
    buckets = [dict(sample.labels) for sample in added[1].series if sample.name == "seconds_bucket"]
    assert buckets == [{"path": path, "le": le} for path in ("/a", "/b", "/c") for le in ("0.5", "1.0", "+Inf")]
    other = gauge("other", 1)
    assert [family.name for family in merged([other, first, other])] == ["other", *(family.name for family in first)]


def test_a_histogram_adds_up_bucket_by_bucket() -> None:
    added = series(merged([of(("/a", 0.25), ("/a", 0.75)), of(("/a", 0.75), ("/a", 2.0))]))
    assert {key[0] + dict(key[1]).get("le", ""): value for key, value in added.items() if "seconds" in key[0]} == {
        "seconds_bucket0.5": 1,
        "seconds_bucket1.0": 3,
        "seconds_bucket+Inf": 4,
        "seconds_count": 4,
        "seconds_sum": 3.75,
    }


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("inferd_model_ready", [1, 1, 1], 1),
        ("inferd_model_ready", [1, 0, 1], 0),
        ("inferd_ready", [1, 0, 1], 0),
        ("inferd_build_info", [1, 1, 1], 1),
        ("inferd_queue_depth", [3, 0, 4], 7),
    ],
)
def test_each_gauge_has_its_rule(name: str, values: Sequence[float], expected: float) -> None:
    assert merged(gauge(name, value, model="tiny") for value in values) == gauge(name, expected, model="tiny")


def test_the_rules_are_for_metrics_that_there_are() -> None:
    metrics = Metrics("1")
    metrics.bind("tiny", 1).ready.set(1)
    metrics.watch_readiness(lambda: True)
    one = snapshot(metrics.registry)
    for name in ("inferd_model_ready", "inferd_ready", "inferd_build_info"):
        assert total(merged([one, one, one]), name) == 1
    assert {family.type for family in one} == {"counter", "gauge", "histogram"}


def test_gauges_are_no_running_totals() -> None:
    one = of(("/a", 1), ("/b", 2))
    kept = running_totals(one)
    assert {family.name: family.type for family in kept} == {
        "requests": "counter",
        "seconds": "histogram",
        "bytes": "summary",
    }
    assert set(kept) <= set(one)


def test_a_total_is_the_sum_of_all_series() -> None:
    one = of(("/a", 1), ("/b", 2), ("/b", 2))
    assert total(one, "requests") == 3
    assert total(one, "waiting") == 5
    assert total(one, "nothing") == 0
    assert total((), "requests") == 0


def test_what_is_exposed_is_read_at_each_scrape() -> None:
    process = Process()
    registry = CollectorRegistry()
    registry.register(Exposed(lambda: snapshot(process.registry)))
    process.happens("/a", 1)
    assert b'requests_total{path="/a"} 1.0' in generate_latest(registry)
    process.happens("/a", 1)
    assert b'requests_total{path="/a"} 2.0' in generate_latest(registry)


def test_nothing_adds_up_to_nothing() -> None:
    assert merged([]) == ()
    assert merged([(), ()]) == ()
    assert render(()) == b""
