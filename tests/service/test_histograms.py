from __future__ import annotations

import math

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from service.histograms import Histogram

BOUNDS = (0.5, 1.0, 2.5)


def written(registry: CollectorRegistry) -> str:
    """What a scrape reads, but for the times at which series were made."""
    lines = generate_latest(registry).decode().splitlines()
    return "\n".join(line for line in lines if "_created" not in line)


@given(st.lists(st.sampled_from([0.0, 0.4, 0.5, 0.7, 1.0, 2.0, 2.5, 3.0, 100.0, math.inf])))
def test_it_is_scraped_as_prometheus_own_is(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    own = Histogram("seconds", "How long.", ("path", "code"), buckets=BOUNDS, registry=ours)
    other = prometheus_client.Histogram("seconds", "How long.", ("path", "code"), buckets=BOUNDS, registry=theirs)
    for number, value in enumerate(values):
        labels = (f"/{number % 2}", "200")
        own.labels(*labels).observe(value)
        other.labels(*labels).observe(value)
    assert written(ours) == written(theirs)


@pytest.mark.parametrize(("dropped", "left"), [({"path": "/1"}, {"/2"}), ({"path": "/2", "code": "404"}, {"/1", "/2"})])
def test_series_are_dropped_by_their_labels(dropped: dict[str, str], left: set[str]) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "How long.", ("path", "code"), buckets=BOUNDS, registry=registry)
    for path in ("/1", "/2"):
        histogram.labels(path, "200").observe(1.0)
    histogram.remove_by_labels(dropped)
    (family,) = registry.collect()
    assert {sample.labels["path"] for sample in family.samples} == left


def test_labels_name_one_series_again_and_again() -> None:
    histogram = Histogram("seconds", "How long.", ("path",), buckets=BOUNDS, registry=CollectorRegistry())
    assert histogram.labels("/1") is histogram.labels("/1")
    assert histogram.labels("/1") is not histogram.labels("/2")
