from __future__ import annotations

from typing import Any

import pytest

from service.bench.plan import Plan


def test_what_is_within_bounds_is_a_plan() -> None:
    plan = Plan(clients=(1, 512), rates=(3000.0,), seconds=60)
    assert plan.sockets == 4096
    assert Plan(clients=(1, 512)).sockets == 512


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--clients and --rate: from 1 to 32 loads can be measured"),
        ({"clients": (1,) * 33}, "from 1 to 32 loads"),
        ({"clients": (0,)}, "--clients may be from 1 to 4096, not 0"),
        ({"clients": (1, 5000)}, "--clients may be from 1 to 4096, not 5000"),
        ({"rates": (0.0,)}, r"--rate may be from 0\.01 to 100000, not 0"),
        ({"rates": (float("nan"),)}, r"--rate may be from 0\.01 to 100000, not nan"),
        ({"rates": (1e9,)}, "--rate may be"),
        ({"rates": (90_000.0,), "seconds": 100}, "--rate: 9,090,000 requests would be due, and 5,000,000 may be"),
        ({"clients": (1,), "connections": 0}, "--connections may be from 1 to 4096, not 0"),
        ({"clients": (1,), "seconds": 0.01}, r"--seconds may be from 0\.1 to 600, not 0\.01"),
        ({"clients": (1,), "seconds": float("inf")}, "--seconds may be"),
        ({"clients": (1,), "warm_up_s": -1}, "--warm-up may be from 0 to 600, not -1"),
        ({"clients": (1,), "rounds": 0}, "--repeat may be from 1 to 100, not 0"),
        ({"clients": (1,), "batch_sizes": (1, 0)}, "--batch-sizes may be from 1 to 4096, not 0"),
        ({"clients": (1,), "processes": (65,)}, "--processes may be from 1 to 64, not 65"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_its_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Plan(**given)
