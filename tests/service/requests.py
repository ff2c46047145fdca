"""Requests to the tiny model, and what a client reads out of the answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.testclient import TestClient

from tests.bundles import HEIGHT, LABELS, WIDTH, logits_of
from tests.service.pictures import Pixels, encoded

PNG = {"content-type": "image/png"}
BRIGHT = encoded(np.full((HEIGHT, WIDTH), 230, np.uint8))
DARK = encoded(np.full((HEIGHT, WIDTH), 20, np.uint8))


def scores_of(pixels: Pixels, invert: bool = False) -> dict[str, float]:
    """Tell what the tiny model answers about brightness (HEIGHT, WIDTH), computed without it."""
    logits = logits_of((255.0 - pixels if invert else pixels)[None, None] / 255)[0]
    exponentials = np.exp(logits)
    return dict(zip(LABELS, exponentials / exponentials.sum(), strict=True))


def answered(body: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Read the scores by label out of an answer, which has nothing else in it."""
    assert all(one.keys() == {"label", "score"} for one in body)
    scores = [one["score"] for one in body]
    assert scores == sorted(scores, reverse=True)
    return {one["label"]: one["score"] for one in body}


def tensor(rows: NDArray[Any], **changes: Any) -> dict[str, Any]:
    """Make the tiny model's input as the Open Inference Protocol has it; `changes` differ."""
    shape = [len(rows), 1, HEIGHT, WIDTH]
    return {"name": "image", "datatype": "FP32", "shape": shape, "data": rows.ravel().tolist(), **changes}


def metrics(client: TestClient) -> dict[str, float]:
    """Read every series: its name with its labels, and its value."""
    return parsed(client.get("/metrics").text)


def parsed(text: str) -> dict[str, float]:
    """Read metrics in Prometheus's text format."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def gained(before: dict[str, float], after: dict[str, float], name: str, **labels: str) -> float:
    """Tell by how much the series of `name` with these labels went up, in all."""

    def total(series: dict[str, float]) -> float:
        return sum(
            value
            for key, value in series.items()
            if re.match(rf"{name}(\{{|$)", key) and all(f'{label}="{text}"' in key for label, text in labels.items())
        )

    return total(after) - total(before)
