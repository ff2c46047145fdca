from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.batching.sampling import Past, Sampler, Sampling, key_of, log_softmax, uniforms

VOCABULARY = 12
COLDEST = 5e-324

Scores = NDArray[np.float32]


# A reference that computes one row in plain Python


def reference(scores: Sequence[float], past: Past) -> int:
    """What is chosen for one sequence, rule by rule."""
    number = float(uniforms(np.array([past.key], np.uint64), np.array([len(past.generated)], np.uint64))[0])
    return drawn(weights_of(penalised(scores, past), past.sampling), number)


def penalised(scores: Sequence[float], past: Past) -> list[float]:
    how = past.sampling
    changed = list(map(float, scores))
    for token in {*past.prompt, *past.generated}:
        score = changed[token]
        changed[token] = score / how.repetition_penalty if score > 0 else score * how.repetition_penalty
    for token in set(past.generated):
        changed[token] -= how.frequency_penalty * past.generated.count(token) + how.presence_penalty
    return changed


def weights_of(scores: Sequence[float], how: Sampling) -> list[float]:
    """What each token is drawn in proportion to."""
    best = max(scores)
    if not how.temperature:
        first = scores.index(best)
        return [float(token == first) for token in range(len(scores))]
    weights = [math.exp((score - best) / how.temperature) for score in scores]
    ranked = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    kept = ranked[: how.top_k or None]
    total = sum(weights[token] for token in kept)
    nucleus: list[int] = []
    for token in kept:
        if how.top_p < 1 and nucleus and sum(weights[one] for one in nucleus) >= how.top_p * total:
            break
        nucleus.append(token)
    return [weight if token in nucleus else 0.0 for token, weight in enumerate(weights)]


def drawn(weights: Sequence[float], number: float) -> int:
    """The token in whose part of the sum of all weights `number` (0 to 1) lies."""
    left = number * sum(weights)
    for token, weight in enumerate(weights):
        if left < weight:
            return token
        left -= weight
    return max(token for token, weight in enumerate(weights) if weight)


def choose(scores: Scores, pasts: Sequence[Past | None]) -> list[int]:
    sampler = Sampler()
    sampler.arrange(pasts)
    return sampler.choose(scores).tolist()


def one_row(scores: Sequence[float]) -> Scores:
    return np.array([scores], np.float32)


tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=12)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 1.3, 5.0, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 3, 5, VOCABULARY, 2**31]),
    top_p=st.sampled_from([1.0, 1.0, 0.95, 0.9, 0.5, 0.3, 1e-9]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2, 0.5, 3.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.3, -0.5, 2.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7, -1.0, 2.0]),
)
pasts = st.builds(Past, key=st.integers(0, 2**64 - 1), sampling=samplings, prompt=tokens.filter(bool), generated=tokens)
# Many are equal, some are far apart: ties and weights of nothing occur.
rows = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(-30, 30, width=32), st.sampled_from([-1e30, 1e30, 0.0])),
    min_size=VOCABULARY,
    max_size=VOCABULARY,
)


@given(row=rows, past=pasts)
def test_a_token_is_chosen_as_the_rules_say_one_by_one(row: list[float], past: Past) -> None:
    assert choose(one_row(row), [past]) == [reference(one_row(row)[0].tolist(), past)]


@given(row=rows, past=pasts)
def test_a_sequence_that_was_arranged_once_goes_on_as_if_it_were_arranged_before_each_token(
    row: list[float], past: Past
) -> None:
    scores = one_row(row)
    sampler = Sampler()
    sampler.arrange([past])
    generated = list(past.generated)
    for _ in range(40):
        expected = choose(scores, [replace(past, generated=tuple(generated))])
        assert sampler.choose(scores).tolist() == expected
        generated += expected


@given(data=st.data(), crowd=st.lists(st.tuples(rows, st.none() | pasts), min_size=1, max_size=9))
def test_a_row_gets_the_same_token_alone_and_at_any_place_beside_any_others(
    data: st.DataObject, crowd: list[tuple[list[float], Past | None]]
) -> None:
    alone = [choose(one_row(row), [past]) for row, past in crowd]
    order = data.draw(st.permutations(range(len(crowd))))
    scores = np.array([crowd[one][0] for one in order], np.float32)
    together = choose(scores, [crowd[one][1] for one in order])
    for place, one in enumerate(order):
        if crowd[one][1] is not None:
            assert [together[place]] == alone[one]


@given(data=st.data())
def test_sequences_that_come_and_go_are_counted_right(data: st.DataObject) -> None:
    how = Sampling(repetition_penalty=1.5, frequency_penalty=0.4, presence_penalty=0.3)
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    sampler = Sampler()
    live: list[tuple[int, list[int], list[int]]] = []
    for number in range(12):
        for _ in range(data.draw(st.integers(0, 2))):
            live.append((len(live) + number, draw.integers(0, VOCABULARY, 3).tolist(), []))
        live = [one for one in data.draw(st.permutations(live)) if data.draw(st.integers(0, 4))]
        if not live:
            continue
        crowd = [Past(key, how, prompt, generated) for key, prompt, generated in live]
        sampler.arrange(crowd)
        if data.draw(st.booleans()):
            sampler.arrange(crowd)
        for _ in range(data.draw(st.integers(0, 3))):
            scores = draw.normal(0, 2, (len(live), VOCABULARY)).astype(np.float32)
            expected = [
                reference(row.tolist(), Past(key, how, prompt, list(generated)))
                for row, (key, prompt, generated) in zip(scores, live, strict=True)
            ]
            assert sampler.choose(scores).tolist() == expected
            for token, (_, _, generated) in zip(expected, live, strict=True):
                generated.append(token)


def test_neighbours_change_no_bit_of_thousands_of_rows() -> None:
    draw = np.random.default_rng(1)
    scores = draw.normal(0, 3, (64, 65)).astype(np.float32)
    kinds = [
        Sampling(),
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(top_k=5),
        Sampling(repetition_penalty=1.3, frequency_penalty=0.2),
        Sampling(temperature=0),
    ]
    crowd = [Past(key_of(9, 0, row), kinds[row % len(kinds)], [row], []) for row in range(64)]
    alone = [Sampler() for _ in crowd]
    for sampler, past in zip(alone, crowd, strict=True):
        sampler.arrange([past])
    together = Sampler()
    together.arrange(crowd)
    for step in range(50):
        moved = np.roll(scores, step, axis=1)
        expected = [int(one.choose(moved[row : row + 1])[0]) for row, one in enumerate(alone)]
        assert together.choose(moved).tolist() == expected


@pytest.mark.parametrize("tokens", [1, 2, 7, 65, 129, 1000])
def test_scores_of_a_row_have_the_same_bits_alone_and_among_others(tokens: int) -> None:
    scores = np.random.default_rng(tokens).normal(0, 5, (33, tokens)).astype(np.float32)
    together = log_softmax(scores)
    for row in range(len(scores)):
        assert log_softmax(scores[row : row + 1])[0].tobytes() == together[row].tobytes()
        assert (
            log_softmax(np.ascontiguousarray(scores[::-1]))[len(scores) - 1 - row].tobytes() == together[row].tobytes()
        )


# Each rule by itself


def test_no_temperature_takes_the_first_of_the_best() -> None:
    assert choose(one_row([1, 5, 5, 2]), [Past(1, Sampling(temperature=0), [0], [])]) == [1]


@pytest.mark.parametrize("temperature", [COLDEST, 1e-310, 1e-200, 1e-9])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_hardly_any_temperature_takes_the_best_too(temperature: float, penalty: float) -> None:
    how = Sampling(temperature=temperature, repetition_penalty=penalty)
    for key in range(20):
        assert choose(one_row([-3e38, 1, 3e38, 2]), [Past(key, how, [2], [])]) == [2]
        assert choose(one_row([0, 0, -1, 1]), [Past(key, how, [3], [])]) == [3]


def test_equals_stay_equal_however_cold_it_is() -> None:
    found = {choose(one_row([7, 7, 0]), [Past(key, Sampling(temperature=COLDEST), [0], [])])[0] for key in range(64)}
    assert found == {0, 1}


def test_top_k_leaves_as_many_and_of_equals_the_first() -> None:
    how = Sampling(temperature=100, top_k=2)
    found = {choose(one_row([1, 3, 3, 3, 0]), [Past(key, how, [0], [])])[0] for key in range(200)}
    assert found == {1, 2}


def test_top_p_leaves_the_fewest_that_have_the_probability_together() -> None:
    row = [math.log(weight) for weight in (1, 4, 2, 1)]  # of 8
    for top_p, left in ((0.49, {1}), (0.51, {1, 2}), (0.74, {1, 2}), (0.76, {0, 1, 2}), (0.99, {0, 1, 2, 3})):
        past = Sampling(top_p=top_p)
        assert {choose(one_row(row), [Past(key, past, [0], [])])[0] for key in range(300)} == left


def test_top_p_that_is_met_exactly_takes_no_more() -> None:
    found = {choose(one_row([0, 0, 0, 0]), [Past(key, Sampling(top_p=0.5), [0], [])])[0] for key in range(200)}
    assert found == {0, 1}


def test_top_p_counts_what_top_k_has_left_and_the_temperature_has_made() -> None:
    row = [math.log(weight) for weight in (8, 4, 2, 1, 1)]
    half = Sampling(top_p=0.6)  # of 16: 8 are half, so two are needed
    assert {choose(one_row(row), [Past(key, half, [0], [])])[0] for key in range(200)} == {0, 1}
    of_two = replace(half, top_k=2)  # of 12: 8 are enough
    assert {choose(one_row(row), [Past(key, of_two, [0], [])])[0] for key in range(200)} == {0}
    warm = replace(half, temperature=100.0)  # all alike
    assert {choose(one_row(row), [Past(key, warm, [0], [])])[0] for key in range(200)} == {0, 1, 2}


def test_penalties_come_before_everything_else() -> None:
    row = [3.0, 2.0, 1.0]
    greedy = Sampling(temperature=0)
    assert choose(one_row(row), [Past(0, replace(greedy, presence_penalty=1.5), [2], [0])]) == [1]
    assert choose(one_row(row), [Past(0, replace(greedy, frequency_penalty=0.4), [2], [0, 0, 0])]) == [1]
    assert choose(one_row(row), [Past(0, replace(greedy, frequency_penalty=0.4), [2], [0, 0])]) == [0]
    assert choose(one_row(row), [Past(0, replace(greedy, repetition_penalty=2.0), [0], [])]) == [1]
    topmost = Sampling(top_k=1, repetition_penalty=2.0)
    assert choose(one_row(row), [Past(0, topmost, [0], [])]) == [1]


def test_only_what_was_generated_is_penalised_by_frequency_and_presence_and_the_prompt_too_by_repetition() -> None:
    row = [2.0, 1.9, 0.0]
    how = Sampling(temperature=0, frequency_penalty=2, presence_penalty=2)
    assert choose(one_row(row), [Past(0, how, [0, 0, 0], [])]) == [0]
    assert choose(one_row(row), [Past(0, Sampling(temperature=0, repetition_penalty=1.5), [0], [])]) == [1]


def test_a_repetition_penalty_lowers_what_is_below_zero_too() -> None:
    how = Sampling(temperature=0, repetition_penalty=2)
    assert choose(one_row([-1.0, -1.5]), [Past(0, how, [0], [])]) == [1]


def test_a_vocabulary_of_one_leaves_no_choice() -> None:
    for how in (Sampling(), Sampling(temperature=0), Sampling(top_k=3, top_p=0.1, presence_penalty=1)):
        assert choose(one_row([-4]), [Past(7, how, [0], [0])]) == [0]


@given(
    row=st.lists(st.sampled_from([0.0, -700.0, -800.0, -1e30]), min_size=2, max_size=8).filter(lambda row: 0.0 in row),
    key=st.integers(0, 2**64 - 1),
)
def test_what_has_no_weight_is_never_drawn(row: list[float], key: int) -> None:
    (token,) = choose(one_row(row), [Past(key, Sampling(), [0], [])])
    assert math.exp(row[token]) > 0


@pytest.mark.parametrize(
    ("row", "first", "last"),
    [
        ([-1e4, 0, -1e4], 1, 1),
        ([-1e4, 0, 1, -1e4, -1e4], 1, 2),
        ([0, 0, 0], 0, 2),
        ([-20, 0, -1e4, -20], 0, 3),
    ],
)
def test_the_least_and_the_largest_number_draw_the_first_and_the_last_that_have_weight(
    monkeypatch: pytest.MonkeyPatch, row: list[float], first: int, last: int
) -> None:
    for number, expected in ((0.0, first), (1 - 2.0**-53, last)):
        monkeypatch.setattr(
            "service.batching.sampling.uniforms",
            lambda keys, positions, number=number: np.full((keys + positions).shape, number),
        )
        assert choose(one_row(row), [Past(0, Sampling(), [0], [])]) == [expected]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    row = one_row([0, 1, 2, -1, 0.5, -5])
    sampler = Sampler()
    sampler.arrange([Past(key_of(1, 0, 0), Sampling(temperature=0.8), [0], [])])
    draws = 20_000
    found = np.bincount([int(sampler.choose(row)[0]) for _ in range(draws)], minlength=6)
    weights = np.exp(row[0].astype(float) / 0.8)
    expected = draws * weights / weights.sum()
    chi_square = float(((found - expected) ** 2 / expected).sum())
    assert chi_square < 20.5, "of 5 degrees of freedom: by chance once in 1,000"


def test_sequences_of_different_keys_are_drawn_as_often_as_tokens_are_likely() -> None:
    count = 20_000
    crowd = [Past(key_of(4, 0, choice), Sampling(), [0], []) for choice in range(count)]
    found = np.bincount(choose(np.tile(one_row([0, 1, -1]), (count, 1)), crowd), minlength=3)
    weights = np.exp(np.array([0.0, 1.0, -1.0]))
    expected = count * weights / weights.sum()
    assert float(((found - expected) ** 2 / expected).sum()) < 13.8, "of 2 degrees of freedom: by chance once in 1,000"


# Random numbers


@pytest.mark.parametrize(
    ("seed", "numbers"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]),
        (
            1234567,
            [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821],
        ),
    ],
)
def test_numbers_are_those_of_splitmix64(seed: int, numbers: list[int]) -> None:
    positions = np.arange(len(numbers), dtype=np.uint64)
    found = uniforms(np.full(len(numbers), seed, np.uint64), positions)
    assert found.tolist() == [(number >> 11) / 2**53 for number in numbers]


def splitmix64(key: int, position: int) -> float:
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return ((z ^ (z >> 31)) >> 11) / 2**53


@given(key=st.integers(0, 2**64 - 1), position=st.integers(0, 2**40))
def test_a_number_is_a_function_of_key_and_position(key: int, position: int) -> None:
    (number,) = uniforms(np.array([key], np.uint64), np.array([position], np.uint64))
    assert number == splitmix64(key, position)
    assert 0 <= number < 1


@pytest.mark.parametrize("vary", ["position", "choice", "prompt", "seed"])
def test_numbers_are_spread_evenly_whatever_varies(vary: str) -> None:
    count = 20_000
    if vary == "position":
        numbers = uniforms(np.full(count, key_of(1, 0, 0), np.uint64), np.arange(count, dtype=np.uint64))
    else:
        keys = [key_of(**{"seed": 1, "prompt": 0, "choice": 0, vary: one}) for one in range(count)]
        numbers = uniforms(np.array(keys, np.uint64), np.zeros(count, np.uint64))
    found = np.histogram(numbers, bins=100, range=(0, 1))[0]
    chi_square = float(((found - count / 100) ** 2 / (count / 100)).sum())
    assert chi_square < 149, "of 99 degrees of freedom: by chance once in 1,000"
    pairs = float(np.corrcoef(numbers[:-1], numbers[1:])[0, 1])
    assert abs(pairs) < 4 / math.sqrt(count)


def test_keys_tell_seed_prompt_and_choice_apart() -> None:
    seeds = (-1, 0, 1, 10, 2**64 - 1)
    assert len({key_of(seed, prompt, choice) for seed in seeds for prompt in range(30) for choice in range(30)}) == 4500
    assert key_of(5, 0, 1) == 10371838573148289988, "the same seed has always given the same text"
