from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.batching.sampling import Sampling, key_of
from service.batching.sequences import SampledGroup, SamplingStrategy
from service.batching.slots import Slots
from service.errors import RuntimeFailure
from service.tensors import Arrays
from tests.service.batching.step_graphs import GRAPH, TOKENS, StepModel, alone, expect_as_alone, group_of, sampled_slots


def slots_of(model: StepModel | None = None, capacity: int = 8) -> Slots:
    return sampled_slots(model or StepModel(), capacity=capacity)


def grow(slots: Slots) -> list[list[SampledGroup]]:
    """Step until nothing lives; the news of each step."""
    news = []
    while slots.live:
        news.append(slots.step())
    return news


def test_a_graph_that_is_no_step_has_no_slots() -> None:
    with pytest.raises(ValueError, match=r"step\.onnx is no graph that is run once a token"):
        Slots(StepModel(), GRAPH.model_copy(update={"step": None}), SamplingStrategy(GRAPH.step), capacity=1)


def test_a_sequence_grows_by_a_token_a_step_once_its_prompt_is_read() -> None:
    slots = slots_of()
    group = group_of([3, 1, 4], limit=3)
    slots.join([group])
    lengths = []
    news = []
    while slots.live:
        news.append(slots.step())
        lengths.append(len(group.sequences[0].tokens))
    assert lengths == [0, 0, 1, 2, 3]
    assert news == [[], [], [group], [], [group]], "its first token and its end are news"
    assert (slots.live, slots.free) == (0, 8)
    expect_as_alone(group)


def test_a_group_whose_first_token_is_its_last_is_news_once() -> None:
    slots = slots_of()
    group = group_of(limit=1, choices=3)
    slots.join([group])
    assert grow(slots) == [[group]]


def test_the_prompt_is_read_in_one_slot_and_then_each_sequence_has_one() -> None:
    model = StepModel()
    slots = slots_of(model)
    group = group_of([1, 2, 3], choices=4, limit=2, sampling=Sampling(temperature=4))
    slots.join([group])
    assert (slots.live, slots.free) == (1, 4), "what the sequences will need is kept for them"
    slots.step()
    slots.step()
    assert (slots.live, slots.free) == (1, 4)
    slots.step()
    assert (slots.live, slots.free) == (4, 4)
    slots.step()
    assert (slots.live, slots.free) == (0, 8)
    assert model.batches == [1, 1, 1, 4]
    expect_as_alone(group)
    assert len({tuple(one.tokens) for one in group.sequences}) > 1


def test_sequences_of_a_group_leave_one_by_one() -> None:
    slots = slots_of()
    lengths = []
    for stop in range(TOKENS):
        group = group_of([5], choices=6, limit=12, seed=stop, stop=stop)
        slots.join([group])
        while slots.live:
            slots.step()
            left = sum(one.finish is None for one in group.sequences)
            assert (group.left, slots.live, slots.free) == (left, left, 8 - left)
        expect_as_alone(group, stop, stop)
        lengths.append({len(one.tokens) for one in group.sequences})
    assert any(len(one) > 1 for one in lengths)


def test_who_joins_later_changes_nobody_and_neither_does_who_leaves() -> None:
    slots = slots_of(capacity=16)
    groups = []
    for number in range(30):
        how = Sampling(temperature=number % 3 / 2, top_p=0.9 if number % 2 else 1, frequency_penalty=number % 5 / 4)
        group = group_of([number % TOKENS] * (1 + number % 4), seed=number, sampling=how, limit=1 + number % 7)
        groups.append(group)
        slots.join([group])
        slots.step()
    grow(slots)
    for number, group in enumerate(groups):
        expect_as_alone(group, number)


def test_dropped_groups_leave_at_once_whether_they_read_or_grow() -> None:
    slots = slots_of()
    reading, growing, other = group_of([1] * 5, choices=2), group_of(choices=3, limit=9), group_of(limit=9)
    slots.join([growing, other])
    slots.step()
    slots.join([reading])
    slots.step()
    assert (slots.live, slots.free) == (5, 2)
    slots.drop({reading, growing})
    assert (slots.live, slots.free) == (1, 7)
    grow(slots)
    expect_as_alone(other)
    expect_as_alone(growing, ended=False)
    assert not reading.sequences[0].tokens


def test_everything_is_dropped_when_slots_are_cleared() -> None:
    slots = slots_of()
    slots.join([group_of(choices=3), group_of([1, 2])])
    slots.step()
    slots.clear()
    assert (slots.live, slots.free) == (0, 8)
    group = group_of([2, 3])
    slots.join([group])
    grow(slots)
    expect_as_alone(group)


# Scores


@pytest.mark.parametrize("top", [0, 1, 4, TOKENS])
def test_tokens_have_the_scores_that_the_model_gave_them(top: int) -> None:
    slots = slots_of()
    how = Sampling(temperature=0.3, presence_penalty=2)
    group = group_of([1, 2], choices=2, sampling=how, top_scores=top)
    slots.join([group, group_of(seed=9)])
    grow(slots)
    expect_as_alone(group)
    for choice, one in enumerate(group.sequences):
        _, _, places = alone([1, 2], key_of(0, 0, choice), how, 5)
        for score, place in zip(one.scores, places, strict=True):
            best = sorted(range(TOKENS), key=lambda token, place=place: (-place[token], token))[:top]
            assert score.top == tuple((token, float(place[token])) for token in best)


def test_nobody_pays_for_scores_that_nobody_wants() -> None:
    slots = slots_of()
    plain, scored = group_of(limit=3), group_of(limit=3, top_scores=0)
    slots.join([plain, scored])
    grow(slots)
    assert not plain.sequences[0].scores
    assert len(scored.sequences[0].scores) == 3


@pytest.mark.parametrize("limit", [0, 3])
def test_the_prompts_tokens_but_the_first_have_scores_as_if_they_were_generated(limit: int) -> None:
    prompt = [4, 4, 7, 0, 2]
    slots = slots_of()
    group = group_of(prompt, limit=limit, top_scores=2, scores_prompt=True)
    slots.join([group_of(seed=2, limit=9), group])
    grow(slots)
    assert len(group.prompt_scores) == 4
    for place in range(1, 5):
        _, _, (logprobs,) = alone(prompt[:place], 0, Sampling(), 1)
        score = group.prompt_scores[place - 1]
        assert score.logprob == float(logprobs[prompt[place]])
        assert score.top[0] == (int(logprobs.argmax()), float(logprobs.max()))
        assert len(score.top) == 2


# What is only scored


def test_a_group_of_nothing_but_its_prompt_ends_when_that_is_read() -> None:
    slots = slots_of()
    group = group_of([1, 2, 3], limit=0, choices=2)
    slots.join([group])
    assert (slots.live, slots.free) == (1, 7), "its sequences need no slots"
    assert grow(slots) == [[], [], [group]]
    assert slots.free == 8
    assert (group.left, [one.tokens for one in group.sequences]) == (0, [[], []])
    assert (group.runs.count, group.runs.rows, group.runs.tokens) == (3, 3, 0)


# Counting


def test_a_group_has_the_runs_that_it_was_part_of_and_they_have_the_rows_and_tokens_of_all() -> None:
    slots = slots_of()
    first, second = group_of([1, 2], limit=3), group_of([1], limit=2, choices=2)
    slots.join([first])
    slots.step()
    slots.join([second])
    grow(slots)
    assert (first.runs.count, first.runs.rows, first.runs.tokens) == (4, 1 + 2 + 3 + 1, 0 + 3 + 3 + 1)
    assert (second.runs.count, second.runs.rows, second.runs.tokens) == (2, 2 + 3, 3 + 3)
    assert (slots.runs.count, slots.runs.rows, slots.runs.tokens) == (4, 7, 7)


def test_times_are_those_of_the_clock() -> None:
    ticks = iter(range(1000))
    slots = sampled_slots(StepModel(), capacity=2, clock=lambda: float(next(ticks)))
    group = group_of([1], limit=2)
    slots.join([group])
    grow(slots)
    assert group.runs.seconds == 2.0
    assert group.first_token_at is not None
    assert 0 < group.first_token_at < group.ended_at


# Models at fault


def test_a_run_that_fails_changes_nothing() -> None:
    model = StepModel()
    slots = slots_of(model)
    group = group_of([1, 2], choices=2)
    slots.join([group])
    for failing_step in range(6):
        model.fails_with = RuntimeFailure(f"at {failing_step}")
        with pytest.raises(RuntimeFailure, match=f"at {failing_step}"):
            slots.step()
        slots.step()
    assert slots.live == 0
    expect_as_alone(group)


@pytest.mark.parametrize("name", ["logits", "next_sum", "next_count"])
def test_an_output_of_other_rows_is_the_models_fault(name: str) -> None:
    model = StepModel()

    def run(inputs: Arrays) -> Arrays:
        outputs = dict(model(inputs))
        outputs[name] = np.concatenate([outputs[name]] * 2)
        return outputs

    slots = sampled_slots(run, capacity=4)
    slots.join([group_of(choices=2)])
    with pytest.raises(RuntimeFailure, match=f"the model is at fault: output '{name}' has shape"):
        slots.step()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_only_the_group_fails_whose_scores_are_no_numbers(wrong: float) -> None:
    model = StepModel()

    def run(inputs: Arrays) -> Arrays:
        outputs = dict(model(inputs))
        outputs["logits"][inputs["token"] == 7, 3] = wrong
        return outputs

    slots = sampled_slots(run, capacity=16)
    good = [group_of([1, 2, 3], seed=1, stop=7), group_of([4], choices=3, seed=2, stop=7)]
    reading, growing = group_of([1, 7, 1], choices=2), group_of([1, 1, 7], choices=4)
    slots.join([good[0], reading, good[1], growing])
    slots.step()
    assert slots.step() == [reading]
    assert slots.step() == [growing, good[0]]
    grow(slots)
    for group in (reading, growing):
        assert isinstance(group.error, RuntimeFailure)
        assert str(group.error) == "the model answered with numbers that are not finite"
        assert not any(one.tokens for one in group.sequences)
        assert group.runs.count in (2, 3)
    for seed, group in enumerate(good, 1):
        assert group.error is None
        expect_as_alone(group, seed, stop=7)
    assert (slots.live, slots.free) == (0, 16)


# Any history


class Histories(RuleBasedStateMachine):
    """Groups join and are dropped in any order; nothing is ever held for nobody, and nobody disturbs anybody."""

    @initialize(capacity=st.integers(1, 9))
    def begin(self, capacity: int) -> None:
        self.model = StepModel()
        self.slots = sampled_slots(self.model, capacity=capacity)
        self.groups: dict[SampledGroup, tuple[int, int | None]] = {}
        self.begun: dict[SampledGroup, tuple[int, int | None]] = {}
        self.seed = 0

    @rule(
        prompt=st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=5),
        choices=st.integers(1, 4),
        limit=st.integers(0, 6),
        stop=st.none() | st.integers(0, TOKENS - 1),
        temperature=st.sampled_from([0.0, 1.0]),
        penalty=st.sampled_from([0.0, 1.0]),
        top=st.none() | st.integers(0, 3),
        scores_prompt=st.booleans(),
    )
    def join(
        self,
        prompt: list[int],
        choices: int,
        limit: int,
        stop: int | None,
        temperature: float,
        penalty: float,
        top: int | None,
        scores_prompt: bool,
    ) -> None:
        if choices > self.slots.free:
            return
        self.seed += 1
        group = group_of(
            prompt,
            choices=choices,
            seed=self.seed,
            limit=limit,
            stop=stop,
            sampling=Sampling(temperature=temperature, presence_penalty=penalty),
            top_scores=top,
            scores_prompt=scores_prompt,
        )
        self.slots.join([group])
        self.groups[group] = self.begun[group] = (self.seed, stop)

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        gone = data.draw(st.sets(st.sampled_from(range(len(self.groups))), min_size=1))
        victims = {group for place, group in enumerate(self.groups) if place in gone}
        self.slots.drop(victims)
        for group in victims:
            seed, stop = self.groups.pop(group)
            expect_as_alone(group, seed, stop, ended=False)

    @precondition(lambda self: self.groups)
    @rule()
    def fail(self) -> None:
        self.model.fails_with = RuntimeFailure("once")
        with pytest.raises(RuntimeFailure):
            self.slots.step()

    @precondition(lambda self: self.groups)
    @rule(steps=st.integers(1, 4))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            if not self.slots.live:
                return
            news = self.slots.step()
            assert len(set(news)) == len(news)
            for group in news:
                assert group in self.groups
                if not group.left:
                    seed, stop = self.groups.pop(group)
                    expect_as_alone(group, seed, stop)
                    assert len(group.prompt_scores) == (len(group.prompt) - 1 if group.scores_prompt else 0)
            assert all(group.left or not group.sequences[0].limit for group in self.groups)

    @invariant()
    def as_much_is_held_as_is_needed(self) -> None:
        if not hasattr(self, "slots"):
            return
        reading = [group for group in self.groups if not any(one.tokens for one in group.sequences)]
        growing = [group for group in self.groups if group not in reading]
        needed = sum(max(1, group.left) for group in reading) + sum(group.left for group in growing)
        assert self.slots.free == self.slots.capacity - needed
        assert self.slots.live == len(reading) + sum(group.left for group in growing)

    def teardown(self) -> None:
        if not hasattr(self, "slots"):
            return
        while self.slots.live:
            self.step(1)
        assert self.slots.free == self.slots.capacity
        assert not self.groups


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=50, stateful_step_count=30)
