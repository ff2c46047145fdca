from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.repository.control import Listed, Listing, VersionPolicy

versions = st.lists(st.integers(1, 12), unique=True).map(sorted)


@given(versions)
def test_without_a_word_all_versions_are_chosen(there: list[int]) -> None:
    assert VersionPolicy().choose(there) == there


@given(versions, st.integers(1, 12))
def test_the_latest_are_the_highest(there: list[int], count: int) -> None:
    chosen = VersionPolicy(latest=count).choose(there)
    assert len(chosen) == min(count, len(there))
    assert set(chosen) <= set(there)
    assert all(one < min(chosen) for one in set(there) - set(chosen))


@given(versions, st.lists(st.integers(1, 12)))
def test_specific_versions_are_chosen_where_they_are_there(there: list[int], some: list[int]) -> None:
    assert set(VersionPolicy(specific=tuple(some)).choose(there)) == set(there) & set(some)


@pytest.mark.parametrize("there", [[10, 9], [9, 10]])
def test_versions_are_numbers_in_whatever_order_they_come(there: list[int]) -> None:
    assert VersionPolicy(latest=1).choose(there) == [10]


def test_none_may_be_chosen() -> None:
    assert VersionPolicy(specific=()).choose([1, 2]) == []
    assert VersionPolicy(latest=1).choose([]) == []


@pytest.mark.parametrize("policy", [VersionPolicy(), VersionPolicy(latest=2), VersionPolicy(specific=(1, 3))])
def test_a_policy_travels(policy: VersionPolicy) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=VersionPolicy) == policy


def test_a_listing_travels() -> None:
    listing = Listing((Listed("a", 1, "READY"), Listed("a", 2, "UNAVAILABLE", "model.onnx: is broken")), ready=True)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(listing), type=Listing) == listing
