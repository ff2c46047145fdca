from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.metrics import Metrics
from service.repository.placement import Key
from service.repository.statistics import Duration, VersionStatistics
from service.snapshots import Snapshot, running_totals, snapshot, total
from service.workers.figures import Figures

A, B = ("a", 1), ("b", 2)


class Counting:
    """What a worker counts, and reports."""

    def __init__(self) -> None:
        self.metrics = Metrics("1")
        self.statistics: dict[Key, VersionStatistics] = {}

    def answers(self, key: Key, times: int = 1) -> None:
        bound = self.metrics.bind(*key)
        bound.ready.set(1)
        bound.inflight.set(2)
        statistics = self.statistics.setdefault(key, VersionStatistics(*key))
        for _ in range(times):
            self.metrics.count_request("predict", 200)
            bound.request_seconds.observe(0.25)
            statistics.success.add(0.25)

    def fails(self) -> None:
        self.metrics.count_request("predict", 404)
        self.metrics.unaddressed("not_found")

    def report(self) -> tuple[Snapshot, list[VersionStatistics]]:
        return snapshot(self.metrics.registry), list(self.statistics.values())


def values(one: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, sample.labels): sample.value for family in one for sample in family.series}


def value(one: Snapshot, name: str, **labels: str) -> float | None:
    return values(one).get((name, tuple(labels.items())))


def test_what_workers_report_is_added_up_and_a_later_report_takes_the_place_of_an_earlier_one() -> None:
    figures, workers = Figures(), [Counting(), Counting()]
    for times in (1, 2):
        for index, worker in enumerate(workers):
            worker.answers(A, times + index)
            figures.report(index, *worker.report())
    one = figures.metrics([A])
    assert value(one, "inferd_requests_total", protocol="predict", code="200") == 8
    assert value(one, "inferd_request_duration_seconds_count", model="a", version="1") == 8
    assert value(one, "inferd_inflight", model="a", version="1") == 4
    assert value(one, "inferd_model_ready", model="a", version="1") == 1
    assert value(one, "inferd_build_info", inferd="1") == 1
    (statistics,) = figures.statistics([A])
    assert statistics == VersionStatistics("a", 1, success=Duration(8, 2_000_000_000))
    assert figures.statistics([A]) == [statistics], "asking changes nothing"


def test_a_worker_that_ends_leaves_its_totals_and_takes_what_was_of_the_present_with_it() -> None:
    figures, ending, other = Figures(), Counting(), Counting()
    ending.answers(A, 3)
    ending.fails()
    other.answers(A, 2)
    figures.report(0, *ending.report())
    figures.report(1, *other.report())
    figures.ended(0)
    one = figures.metrics([A])
    assert value(one, "inferd_requests_total", protocol="predict", code="200") == 5
    assert value(one, "inferd_requests_total", protocol="predict", code="404") == 1
    assert value(one, "inferd_request_failures_total", model="", version="", reason="not_found") == 1
    assert value(one, "inferd_request_duration_seconds_count", model="a", version="1") == 5
    assert value(one, "inferd_inflight", model="a", version="1") == 2
    assert figures.statistics([A])[0].success.count == 5
    figures.ended(1)
    alone = figures.metrics([A])
    assert value(alone, "inferd_requests_total", protocol="predict", code="200") == 5
    assert value(alone, "inferd_inflight", model="a", version="1") is None
    assert value(alone, "inferd_model_ready", model="a", version="1") is None


def test_a_worker_that_ends_before_its_first_report_leaves_nothing() -> None:
    figures = Figures()
    figures.ended(0)
    assert total(figures.metrics([]), "inferd_requests") == 0
    assert figures.statistics([]) == []


def test_the_one_that_comes_in_its_place_counts_on() -> None:
    figures = Figures()
    for _ in range(3):
        worker = Counting()
        worker.answers(A, 2)
        figures.report(0, *worker.report())
        figures.ended(0)
    assert value(figures.metrics([A]), "inferd_requests_total", protocol="predict", code="200") == 6
    assert figures.statistics([A])[0].success.count == 6
    assert value(figures.metrics([A]), "inferd_worker_requests_total", worker="0") == 6


def test_the_models_of_ended_workers_that_serve_no_longer_are_forgotten_for_good() -> None:
    figures, ending = Figures(), Counting()
    ending.answers(A, 3)
    ending.answers(B, 4)
    ending.fails()
    figures.report(0, *ending.report())
    figures.ended(0)
    assert [(each.name, each.version) for each in figures.statistics([B])] == [B]
    one = figures.metrics([B])
    assert {dict(labels).get("model") for _, labels in values(one)} == {None, "", "b"}
    assert value(one, "inferd_request_duration_seconds_count", model="b", version="2") == 4
    assert value(one, "inferd_requests_total", protocol="predict", code="200") == 7, "it belongs to no model"
    assert [(each.name, each.version) for each in figures.statistics([B])] == [B]
    # What is loaded again begins anew, as it does in workers that live.
    assert value(figures.metrics([A, B]), "inferd_request_duration_seconds_count", model="a", version="1") is None
    assert [(each.name, each.version) for each in figures.statistics([A, B])] == [B]


def test_another_version_is_another_model() -> None:
    figures, ending = Figures(), Counting()
    ending.answers(("a", 1))
    ending.answers(("a", 10))
    figures.report(0, *ending.report())
    figures.ended(0)
    assert {dict(labels).get("version") for _, labels in values(figures.metrics([("a", 10)]))} == {None, "10"}


def test_what_live_workers_still_let_go_is_told_as_they_tell_it() -> None:
    figures, worker = Figures(), Counting()
    worker.answers(A)
    figures.report(0, *worker.report())
    assert value(figures.metrics([]), "inferd_request_duration_seconds_count", model="a", version="1") == 1
    assert [(each.name, each.version) for each in figures.statistics([])] == [A]


def test_workers_and_their_restarts_are_counted_and_each_ones_share_is_told() -> None:
    figures, workers = Figures(), [Counting(), Counting()]
    assert value(figures.metrics([]), "inferd_workers") == 0
    assert value(figures.metrics([]), "inferd_worker_restarts_total") == 0
    figures.joined(2)
    figures.restarted()
    for worker, times in zip(workers, (3, 1), strict=True):
        worker.answers(A, times)
    for _ in range(2):
        for index, worker in enumerate(workers):
            figures.report(index, *worker.report())
    one = figures.metrics([A])
    assert value(one, "inferd_workers") == 2
    assert value(one, "inferd_worker_restarts_total") == 1
    assert value(one, "inferd_worker_requests_total", worker="0") == 3
    assert value(one, "inferd_worker_requests_total", worker="1") == 1


steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["answers a", "answers b", "fails", "reports", "ends", "is asked"])),
    max_size=40,
)


@given(steps)
def test_no_total_ever_falls_and_none_is_counted_twice(history: list[tuple[int, str]]) -> None:
    figures = Figures()
    workers = [Counting(), Counting(), Counting()]
    answered = 0
    told: dict[object, float] = {}
    for index, step in history:
        worker = workers[index]
        if step == "reports":
            figures.report(index, *worker.report())
        elif step == "ends":
            figures.report(index, *worker.report())  # a last time, so that all that was counted is known
            figures.ended(index)
            workers[index] = Counting()
        elif step == "fails":
            worker.fails()
        elif step != "is asked":
            worker.answers(A if step == "answers a" else B)
            answered += 1
        now = values(running_totals(figures.metrics([A, B])))
        assert told.items() <= {key: min(value, told.get(key, value)) for key, value in now.items()}.items()
        told = dict(now)
    for index, worker in enumerate(workers):
        figures.report(index, *worker.report())
    assert value(figures.metrics([A, B]), "inferd_requests_total", protocol="predict", code="200") in (answered, None)
    assert sum(one.success.count for one in figures.statistics([A, B])) == answered
