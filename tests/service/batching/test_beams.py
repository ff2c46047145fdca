"""Beam search in slots finds what beam search by the book finds, whoever is beside it."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import numpy as np
import pytest

from service.batching.beams import BeamGroup, BeamStrategy, _closed_up
from service.batching.policy import LatencyProfile, Limits
from service.batching.sequences import SamplingStrategy
from service.batching.slots import Slots
from service.batching.stepper import Stepper
from service.errors import Cancelled, RuntimeFailure, TooLarge
from service.manifest import Step
from tests.service.batching import step_graphs
from tests.service.batching.decoders import END, GRAPH, START, Asked, DecoderModel, beam_slots, expect, search

PATIENCE_S = 20


def grow(slots: Slots, most: int = 1000) -> None:
    """Step until nothing lives."""
    for _ in range(most):
        if not slots.live:
            return
        slots.step()
    raise AssertionError(f"it lives after {most} steps")


def of_every_kind(count: int, seed: int) -> list[Asked]:
    draw = random.Random(seed)  # noqa: S311
    return [
        Asked(
            source=draw.randint(1, 9),
            seed=draw.randrange(10**6),
            beams=(beams := draw.randint(1, 6)),
            limit=draw.randint(1, 14),
            penalty=draw.choice((0.0, 0.6, 1.0, 2.0)),
            wanted=draw.randint(1, beams),
            prompt=(START, *(draw.randint(2, 13) for _ in range(draw.choice((0, 0, 2))))),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("beams", range(1, 7))
def test_a_search_finds_what_a_search_by_the_book_finds(beams: int) -> None:
    lengths = set()
    for seed, penalty, likes_end in itertools.product(range(6), (0.0, 1.0), (-5.0, -2.0, 1.0)):
        asked = Asked(source=5, seed=seed, beams=beams, limit=12, penalty=penalty)
        group = asked.group(attentive=True)
        slots = beam_slots(DecoderModel(likes_end), capacity=beams)
        slots.join([group])
        grow(slots)
        expect(group, search(DecoderModel(likes_end), asked))
        assert group.left == 0
        assert slots.free == beams
        lengths.add(len(group.finished[0].tokens))
    assert len(lengths) > 3


def test_what_is_cut_off_has_no_end_and_still_is_the_best_there_is() -> None:
    asked = Asked(source=4, seed=1, limit=3, wanted=2)
    group = asked.group(attentive=True)
    slots = beam_slots(DecoderModel(likes_end=-50), capacity=3)
    slots.join([group])
    grow(slots)
    expect(group, search(DecoderModel(likes_end=-50), asked))
    for one in group.finished:
        assert len(one.tokens) == 3
        assert END not in one.tokens
        assert one.attention is not None
        assert one.attention.shape == (3, 4)


def test_with_one_beam_the_likeliest_token_is_taken_and_the_length_counts_for_nothing() -> None:
    asked = Asked(source=3, seed=2, beams=1, penalty=9.0)
    group = asked.group()
    model = DecoderModel()
    slots = beam_slots(model, capacity=1)
    slots.join([group])
    grow(slots)
    (found,) = group.finished
    assert found.score == found.logprob
    assert set(model.rows) == {1}
    tokens: list[int] = []
    arrays = asked.arrays
    last, state = START, arrays.pop("state")
    while last != END and len(tokens) < asked.limit:
        answer = model({"token": np.array([last]), "state": state, **arrays})
        last, state = int(answer["tokens"][0, 0]), answer["next_state"]
        tokens.append(last)
    assert found.tokens == tuple(tokens[:-1] if last == END else tokens)


def test_alternatives_come_best_first_and_the_best_is_no_worse_than_without_them() -> None:
    for seed in range(8):
        alone, several = (Asked(source=5, seed=seed, beams=4, wanted=wanted).group() for wanted in (1, 4))
        for group in (alone, several):
            slots = beam_slots(DecoderModel(), capacity=4)
            slots.join([group])
            grow(slots)
        scores = [one.score for one in several.finished]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)
        assert len({one.tokens for one in several.finished}) == 4
        assert scores[0] >= alone.finished[0].score


@pytest.mark.parametrize("seed", range(12))
def test_groups_of_every_kind_that_come_and_go_find_what_each_finds_alone(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("service.batching.carried._SHRINK_AFTER", 1 + seed % 4)
    draw = random.Random(seed)  # noqa: S311
    model = DecoderModel(likes_end=-3.0)
    slots = beam_slots(model, capacity=16)
    waiting = [(asked, asked.group(attentive=draw.random() < 0.5)) for asked in of_every_kind(25, seed)]
    live: dict[BeamGroup, Asked] = {}
    dropped = 0
    while waiting or slots.live:
        while waiting and waiting[-1][1].width <= slots.free and draw.random() < 0.7:
            asked, group = waiting.pop()
            live[group] = asked
            slots.join([group])
        if live and draw.random() < 0.2:
            gone = draw.choice(list(live))
            del live[gone]
            slots.drop([gone])
            dropped += 1
        if not slots.live:
            continue
        assert slots.live <= slots.capacity
        for group in slots.step():
            expect(group, search(DecoderModel(likes_end=-3.0), live.pop(group)))
    assert not live
    assert slots.free == slots.capacity
    assert dropped
    assert max(model.rows) > 6


@pytest.mark.parametrize(("patience", "sources"), [(1, [2, 10, 10, 10, 2, 2]), (64, [2, 10, 10, 10, 10, 10])])
def test_contexts_are_as_long_as_the_longest_that_lives_or_did_a_moment_ago(
    monkeypatch: pytest.MonkeyPatch, patience: int, sources: list[int]
) -> None:
    monkeypatch.setattr("service.batching.carried._SHRINK_AFTER", patience)
    model = DecoderModel(likes_end=-50)
    slots = beam_slots(model, capacity=8)
    asked = [Asked(source=2, seed=2, limit=6), Asked(source=9, seed=1, limit=3)]
    groups = [one.group() for one in asked]
    for group in groups:
        slots.join([group])
        slots.step()
    grow(slots)
    assert model.sources == sources
    for one, group in zip(asked, groups, strict=True):
        expect(group, search(DecoderModel(likes_end=-50), one))


def test_where_a_group_ends_the_last_that_is_as_wide_goes_and_all_others_stay() -> None:
    a, b, c, d, e = (Asked(source=3, seed=seed, beams=1 + (seed != 4)).group() for seed in range(5))
    rows = [a, a, b, b, c, c, e, d, d]
    assert _closed_up(rows, {b}) == [0, 1, 7, 8, 4, 5, 6]
    assert _closed_up(rows, {a, b}) == [7, 8, 4, 5, 6]
    assert _closed_up(rows, {d}) == [0, 1, 2, 3, 4, 5, 6]
    assert _closed_up(rows, {e, d}) == [0, 1, 2, 3, 4, 5]
    assert _closed_up(rows, {e}) == [0, 1, 2, 3, 4, 5, 7, 8]
    assert _closed_up(rows, {a, b, c, d, e}) == []


def test_what_is_left_to_do_falls_with_every_step() -> None:
    group = Asked(source=3, seed=1, beams=3, limit=30).group(likely=5)
    slots = beam_slots(DecoderModel(likes_end=-50), capacity=3)
    slots.join([group])
    left = []
    while slots.live:
        left.append(group.row_steps_left)
        slots.step()
    assert left[:7] == [15, 12, 9, 6, 3, 3, 3]
    assert len(left) == 30


def test_a_group_that_comes_to_no_number_fails_alone() -> None:
    model = DecoderModel(likes_end=-50)
    model.diverges_at = 7
    slots = beam_slots(model, capacity=6)
    failing = Asked(source=3, seed=1, prompt=(7,)).group()
    asked = Asked(source=4, seed=2, limit=4, beams=2)
    others = asked.group()
    slots.join([failing, others])
    assert slots.step() == [failing]
    assert isinstance(failing.error, RuntimeFailure)
    model.diverges_at = None
    grow(slots)
    expect(others, search(DecoderModel(likes_end=-50), asked))


def test_a_beam_needs_candidates_and_a_sampler_logits() -> None:
    step = step_graphs.GRAPH.step
    assert isinstance(step, Step)
    with pytest.raises(ValueError, match="picks candidates"):
        BeamStrategy(step, END)
    assert GRAPH.step is not None
    with pytest.raises(ValueError, match="logits"):
        SamplingStrategy(GRAPH.step)


# In a stepper


def stepper_of(model: DecoderModel, capacity: int) -> Stepper:
    return Stepper(
        beam_slots(model, capacity=capacity),
        profile=LatencyProfile(((1, 0.0001),)),
        limits=Limits(capacity, 1000, 1000.0),
        name="step-test",
    )


async def ended(group: BeamGroup) -> BeamGroup:
    while not group.done:
        await group.changed.wait()
        group.changed.clear()
    return group


def run(main: Any) -> None:
    async def patiently() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(patiently())


def test_a_stepper_searches_for_many_at_once_and_tells_each_of_its_end() -> None:
    async def main() -> None:
        model = DecoderModel()
        stepper = stepper_of(model, 12)
        asked = of_every_kind(40, seed=5)
        groups = [one.group() for one in asked]
        for group in groups:
            stepper.submit(group)
        for one, group in zip(asked, await asyncio.gather(*map(ended, groups)), strict=True):
            expect(group, search(DecoderModel(), one))
            assert group.runs.count >= 1
            assert group.first_token_at is None, "nobody asked for it"
        assert max(model.rows) > 6
        await stepper.drain()

    run(main)


def test_a_search_that_nobody_waits_for_any_more_gives_its_slots_back() -> None:
    async def main() -> None:
        stepper = stepper_of(DecoderModel(likes_end=-50), 4)
        endless = Asked(source=3, seed=1, beams=4, limit=10**6).group()
        stepper.submit(endless)
        asked = Asked(source=3, seed=2, beams=4, limit=5)
        waits = asked.group()
        stepper.submit(waits)
        await asyncio.sleep(0.01)
        assert not waits.done
        stepper.cancel(endless)
        expect(await ended(waits), search(DecoderModel(likes_end=-50), asked))
        assert isinstance((await ended(endless)).error, Cancelled)
        with pytest.raises(TooLarge, match="at most 4 sequences; this one has 5"):
            stepper.submit(Asked(source=3, seed=1, beams=5).group())
        await stepper.drain()

    run(main)
