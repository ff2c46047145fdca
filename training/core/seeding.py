"""Randomness, all of it derived from one seed, so that a run can be repeated and resumed in the middle."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (weights' initial values, dropout)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator that is a function of `parts` alone, e.g. `generator(seed, "augment", epoch, step)`.

    Whoever draws from it needs no saved state to go on after an interruption.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
