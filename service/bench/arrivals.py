"""When requests are due that come whether or not others were answered: an open loop's arrivals."""

from __future__ import annotations

from math import ceil
from typing import Literal, TypeAlias

import numpy as np

Arrivals: TypeAlias = Literal["poisson", "even"]


def arrivals(rate: float, seconds: float, kind: Arrivals, *, seed: int = 1) -> list[float]:
    """When requests are due, in seconds from the start, in rising order and before `seconds`.

    Args:
        rate: requests a second, on average.
        seconds: for how long.
        kind: `poisson`, as those of many people who know nothing of each other; `even`, one like the other.
        seed: of what is random.
    """
    if kind == "even":
        return [number / rate for number in range(ceil(rate * seconds))]
    expected = rate * seconds
    # Seven deviations and some more than will be needed; what lies behind the end is cut off.
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(expected + 7 * expected**0.5) + 50)
    due = np.cumsum(gaps)
    return [float(one) for one in due[due < seconds]]
