from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.records import Answer, BatchReport
from service.repository.statistics import BatchStatistics, Duration, VersionStatistics, merged

seconds = st.floats(0.0, 100.0)
answers = st.builds(
    Answer,
    outputs=st.just({}),
    queue_s=seconds,
    compute_s=seconds,
    batch_rows=st.integers(1, 8),
    input_s=seconds,
    infer_s=seconds,
    output_s=seconds,
)
reports = st.builds(
    BatchReport,
    cause=st.just("idle"),
    rows=st.integers(1, 8),
    requests=st.integers(1, 8),
    compute_s=seconds,
    failed=st.just(False),
    input_s=seconds,
    infer_s=seconds,
    output_s=seconds,
)
keys = st.sampled_from([("a", 1), ("a", 2), ("a", 10), ("b", 1)])
events = st.lists(st.tuples(st.integers(0, 2), keys, answers | reports | st.sampled_from(["success", "fail"])))


def count(statistics: VersionStatistics, event: Any) -> None:
    if isinstance(event, Answer):
        statistics.count_answer(event, event.batch_rows)
    elif isinstance(event, BatchReport):
        statistics.count_batch(event)
    else:
        getattr(statistics, event).add(0.125)


@given(events)
def test_what_workers_count_adds_up_to_what_one_would_have_counted(
    happened: list[tuple[int, tuple[str, int], Any]],
) -> None:
    whole: dict[tuple[str, int], VersionStatistics] = {}
    parts: dict[tuple[int, tuple[str, int]], VersionStatistics] = {}
    for worker, key, event in happened:
        count(whole.setdefault(key, VersionStatistics(*key)), event)
        count(parts.setdefault((worker, key), VersionStatistics(*key)), event)
    before = msgspec.msgpack.encode(list(parts.values()))

    totals = merged(parts.values())

    assert [(total.name, total.version) for total in totals] == sorted(whole)
    for total in totals:
        key = (total.name, total.version)
        assert total.last_inference_ms == max(part.last_inference_ms for (_, of), part in parts.items() if of == key)
        whole[key].last_inference_ms = total.last_inference_ms  # the clock went on between the two
        assert total == whole[key]
    assert msgspec.msgpack.encode(list(parts.values())) == before


@given(events)
def test_adding_up_once_more_changes_nothing(happened: list[tuple[int, tuple[str, int], Any]]) -> None:
    parts: dict[tuple[int, tuple[str, int]], VersionStatistics] = {}
    for worker, key, event in happened:
        count(parts.setdefault((worker, key), VersionStatistics(*key)), event)
    once = merged(parts.values())
    assert merged(once) == once
    assert merged(parts.values()) == once


@given(events)
def test_statistics_come_through_a_channel_as_they_were(happened: list[tuple[int, tuple[str, int], Any]]) -> None:
    statistics = [VersionStatistics("a", 1), VersionStatistics("b", 2)]
    for worker, _, event in happened:
        count(statistics[worker % 2], event)
    content = msgspec.msgpack.encode(statistics)
    assert msgspec.msgpack.decode(content, type=list[VersionStatistics]) == statistics


def test_nothing_adds_up_to_nothing() -> None:
    assert merged([]) == []
    assert merged([VersionStatistics("a", 1)]) == [VersionStatistics("a", 1)]


def test_an_answer_counts_its_rows_and_its_times() -> None:
    statistics = VersionStatistics("a", 1)
    before = time.time_ns() // 1_000_000
    answer = Answer({}, queue_s=0.5, compute_s=4.0, batch_rows=8, input_s=0.25, infer_s=3.0, output_s=0.125)
    for rows in (3, 1):
        statistics.count_answer(answer, rows)
    assert before <= statistics.last_inference_ms <= time.time_ns() // 1_000_000
    statistics.last_inference_ms = 0
    assert statistics == VersionStatistics(
        "a",
        1,
        inference_count=4,
        queue=Duration(2, 1_000_000_000),
        compute_input=Duration(2, 500_000_000),
        compute_infer=Duration(2, 6_000_000_000),
        compute_output=Duration(2, 250_000_000),
    )


def test_a_run_counts_under_its_rows() -> None:
    statistics = VersionStatistics("a", 1)
    for rows in (8, 2, 8):
        report = BatchReport("full", rows, 2, 4.0, failed=False, input_s=0.25, infer_s=3.0, output_s=0.125)
        statistics.count_batch(report)
    assert statistics == VersionStatistics(
        "a",
        1,
        execution_count=3,
        batches={
            8: BatchStatistics(Duration(2, 500_000_000), Duration(2, 6_000_000_000), Duration(2, 250_000_000)),
            2: BatchStatistics(Duration(1, 250_000_000), Duration(1, 3_000_000_000), Duration(1, 125_000_000)),
        },
    )


@pytest.mark.parametrize(
    ("seconds", "ns"), [(0.0, 0), (1e-9, 1), (2.5e-9, 2), (1e-7, 100), (3600.0, 3_600_000_000_000)]
)
def test_a_duration_is_kept_in_whole_nanoseconds(seconds: float, ns: int) -> None:
    duration = Duration()
    duration.add(seconds)
    assert duration == Duration(1, ns)
