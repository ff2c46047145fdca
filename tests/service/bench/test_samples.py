from __future__ import annotations

import pytest

from service.bench.messages import Answer
from service.bench.samples import Figures, Samples, Spread
from tests.service.bench.scripted import STREAM_HEAD, answer, chunk


def read(content: bytes) -> Answer:
    one = Answer()
    assert one.feed(content)
    return one


def test_percentiles_are_the_smallest_values_that_so_many_do_not_pass() -> None:
    values = list(range(100, 0, -1))
    assert Spread.of(values) == Spread(mean=50.5, p50=50, p95=95, p99=99, max=100)
    assert Spread.of([3.0]) == Spread(3, 3, 3, 3, 3)
    assert Spread.of([1, 2, 3, 4], 1000) == Spread(2500, 2000, 4000, 4000, 4000)
    assert Spread.of([]) is None


def test_figures_follow_from_what_was_seen() -> None:
    samples = Samples(seconds=4)
    for number in range(1, 9):
        samples.count(read(answer(x_queue_ms=number, x_compute_ms=2, x_batch_size=4)), number / 1000, units=3)
    samples.count(read(answer(b"full", 429)), 0.1, units=3)
    samples.count(read(answer(b"full", 429)), 0.1, units=3)
    samples.count(read(answer(b"broken", 500)), 0.1, units=3)
    samples.lost["disconnected"] += 2
    samples.processor_s = 1.0
    figures = Figures.of(samples)
    assert (figures.seconds, figures.answered, figures.per_s, figures.units_per_s) == (4, 8, 2, 6)
    assert figures.refused == 2
    assert figures.errors == {"500": 1, "disconnected": 2}
    assert figures.error == "429: full"
    assert figures.latency_ms == Spread(mean=pytest.approx(4.5), p50=4, p95=8, p99=8, max=8)
    assert figures.queue_ms == Spread(mean=4.5, p50=4, p95=8, p99=8, max=8)
    assert figures.compute_ms == Spread(2, 2, 2, 2, 2)
    assert figures.batch_size == Spread(4, 4, 4, 4, 4)
    assert figures.generator_cpu == 0.25
    assert figures.first_token_ms is figures.between_tokens_ms is figures.late_ms is None


def test_of_streams_tokens_are_what_is_given() -> None:
    samples = Samples(seconds=2)
    samples.count(read(STREAM_HEAD + chunk("a", "b") + b"0\r\n\r\n"), 0.5, units=100)
    samples.tokens = 30
    samples.first_s.append(0.25)
    samples.gaps_s.extend([0.5, 0.0])
    figures = Figures.of(samples)
    assert (figures.per_s, figures.units_per_s) == (0.5, 15)
    assert figures.first_token_ms == Spread(250, 250, 250, 250, 250)
    assert figures.between_tokens_ms == Spread(mean=250, p50=0, p95=500, p99=500, max=500)
    assert figures.queue_ms is None


def test_an_answer_whose_time_nobody_saw_counts_all_the_same() -> None:
    samples = Samples(seconds=1)
    samples.count(read(answer()), None, units=2)
    assert Figures.of(samples).answered == 1
    assert Figures.of(samples).latency_ms is None


def test_figures_of_nothing_are_none() -> None:
    figures = Figures.of(Samples(seconds=1))
    assert (figures.per_s, figures.units_per_s, figures.errors, figures.error) == (0, 0, {}, "")
    assert figures.latency_ms is None
