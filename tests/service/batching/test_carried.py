"""What rows carry: each row its group's, wherever it stands, and nothing is written that stands there already."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.batching.beams import BeamGroup
from service.batching.carried import Contexts, States
from service.batching.groups import Group
from service.tensors import Arrays
from tests.service.batching.decoders import GRAPH, Asked


def group_of(number: int, source: int = 4) -> BeamGroup:
    return Asked(source=source, seed=number).group(changed=asyncio.Event())


def expect_contexts(arrays: Arrays, groups: Sequence[Group]) -> None:
    """Each row has its group's context, and zeros behind it."""
    for name, array in arrays.items():
        assert len(array) == len(groups)
        for row, group in zip(array, groups, strict=True):
            own = group.context[name][0]
            filled_up = np.zeros_like(row)
            filled_up[tuple(map(slice, own.shape))] = own
            np.testing.assert_array_equal(row, filled_up)


@pytest.mark.parametrize("seed", range(8))
def test_each_row_has_its_groups_context_however_they_come_and_go(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr("service.batching.carried._SHRINK_AFTER", 1 + seed % 3)
    draw = random.Random(seed)  # noqa: S311
    contexts = Contexts(GRAPH)
    rows: list[tuple[Group, int]] = []
    for number in range(60):
        for _ in range(draw.randint(1, 3)):  # several times between two runs
            rows = [row for row in rows if draw.random() < 0.8]
            draw.shuffle(rows)
            rows.append((group_of(number, draw.randint(1, 9)), draw.randint(1, 4)))
            groups = [group for group, width in rows for _ in range(width)]
            contexts.seat(groups)
        expect_contexts(contexts.arrays(), groups)
        expect_contexts(contexts.arrays(), groups)
    contexts.seat([])
    assert all(len(array) == 0 for array in contexts.arrays().values())


def test_what_stays_in_its_place_is_not_written_again() -> None:
    contexts = Contexts(GRAPH)
    one, other, third = (group_of(number) for number in range(3))
    contexts.seat([one, one, other, other])
    before = contexts.arrays()
    for array in before.values():
        array[:2] = 1  # which nobody does
    contexts.seat([one, one, third])
    after = contexts.arrays()
    assert all((array[:2] == 1).all() for array in after.values())
    expect_contexts({name: array[2:] for name, array in after.items()}, [third])


def test_states_go_where_they_are_sent_even_after_a_run_that_failed() -> None:
    assert GRAPH.step is not None
    inputs = {tensor.name: tensor for tensor in GRAPH.inputs}
    states = States({"state": inputs["state"]})
    groups = [group_of(number) for number in range(3)]
    states.seat(groups, np.full(3, -1))
    begun: Any = np.concatenate([group.start["state"] for group in groups])
    np.testing.assert_array_equal(states.arrays()["state"], begun)
    states.move(np.array([2, 0, 0]))  # no run has made others
    np.testing.assert_array_equal(states.arrays()["state"], begun[[2, 0, 0]])
    states.move(np.array([1, 1, 0]))
    states.move(np.array([2, 0, 1]))
    np.testing.assert_array_equal(states.arrays()["state"], begun[[2, 0, 0]])
    made = np.arange(12, dtype=np.float32).reshape(3, 4)
    states.replace({"state": made})
    assert states.arrays()["state"] is made
    states.seat([groups[0], group_of(9)], np.array([2, -1]))
    found = states.arrays()["state"]
    np.testing.assert_array_equal(found[0], made[2])
    np.testing.assert_array_equal(found[1], group_of(9).start["state"][0])
