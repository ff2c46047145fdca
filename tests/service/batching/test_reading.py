"""Slots whose groups are read as they join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.batching.beams import BeamGroup, BeamStrategy
from service.batching.groups import Group
from service.batching.reading import ReadingSlots
from service.errors import RuntimeFailure
from tests.service.batching.decoders import END, GRAPH, Asked, DecoderModel, expect, search


class Reading:
    """Gives groups what was asked of them, but for those that can't be read.

    Attributes:
        read: the groups of each reading.
    """

    def __init__(self, asked: dict[Group, Asked], unreadable: Sequence[Group] = ()) -> None:
        self.read: list[list[Group]] = []
        self._asked = asked
        self._unreadable = unreadable

    def __call__(self, groups: Sequence[Group]) -> None:
        self.read.append(list(groups))
        for group in groups:
            if group in self._unreadable:
                group.error = RuntimeFailure("it broke")
                continue
            arrays: dict[str, Any] = self._asked[group].arrays
            group.start = {"state": arrays.pop("state")}
            group.context = arrays


def unread(asked: Asked) -> BeamGroup:
    """A group with nothing to look at yet."""
    group = asked.group()
    group.start, group.context = {}, {}
    return group


def slots_of(model: DecoderModel, reading: Reading, capacity: int = 12) -> ReadingSlots:
    assert GRAPH.step is not None
    return ReadingSlots(model, GRAPH, BeamStrategy(GRAPH.step, END), read=reading, capacity=capacity)


def test_groups_are_read_together_when_they_join_and_find_what_each_finds_alone() -> None:
    asked = [Asked(source=2 + seed, seed=seed) for seed in range(4)]
    groups = {unread(one): one for one in asked}
    reading = Reading(groups)
    slots = slots_of(DecoderModel(), reading)
    first, *others = groups
    slots.join([first])
    slots.step()
    slots.join(others)
    while slots.live:
        slots.step()
    assert reading.read == [[first], others]
    for group, one in groups.items():
        expect(group, search(DecoderModel(), one))


def test_what_cannot_be_read_fails_alone_and_has_no_slots() -> None:
    asked = [Asked(source=3, seed=seed) for seed in range(3)]
    groups = {unread(one): one for one in asked}
    good, bad, other = groups
    model = DecoderModel()
    slots = slots_of(model, Reading(groups, unreadable=[bad]))
    slots.join([good, bad, other])
    assert slots.free == 6
    assert slots.step()[0] is bad
    assert str(bad.error) == "it broke"
    while slots.live:
        assert bad not in slots.step()
    for group in (good, other):
        expect(group, search(DecoderModel(), groups[group]))
    runs = len(model.rows)
    slots.join([bad])
    assert slots.step() == [bad]
    assert slots.step() == []
    assert len(model.rows) == runs, "nothing was run for it"
    assert slots.free == 12


def test_what_is_dropped_was_read_for_nothing_and_leaves_nothing() -> None:
    asked = Asked(source=3, seed=1)
    group = unread(asked)
    slots = slots_of(DecoderModel(), Reading({group: asked}))
    slots.join([group])
    slots.clear()
    assert slots.step() == []
    assert slots.free == 12
