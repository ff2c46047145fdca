"""What becomes of numbers that are none, as the manifest says it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import RuntimeFailure
from service.manifest import Manifest
from service.repository.batched_model import GraphModel
from service.repository.bundle import LoadOptions
from service.repository.importing import Import, import_model
from service.settings import Settings
from service.tensors import not_finite
from tests.bundles import identities_graph
from tests.conftest import Serve
from tests.service.repository.serving import replica, serve

GRAPH = identities_graph({"x": ("FP32", ("batch", 2)), "names": ("BYTES", ("batch", 1))})
BAD = [np.nan, np.inf, -np.inf]


def brought(folder: Path, models: Path, policy: Literal["pass", "refuse"]) -> tuple[Path, Manifest]:
    file = folder / "given.onnx"
    file.write_bytes(GRAPH.SerializeToString())
    made = import_model(models, Import(file, "echo", not_finite=policy), LoadOptions.of(Settings(models=models)))
    return made.folder.path, made.manifest


def row(value: float) -> dict[str, NDArray[Any]]:
    return {"x": np.array([[0.5, value]], np.float32), "names": np.array([["a"]], object)}


@pytest.mark.parametrize("bad", BAD)
def test_where_they_are_refused_only_the_guilty_of_a_batch_fails(tmp_path: Path, models: Path, bad: float) -> None:
    async def main() -> None:
        async with replica() as repository:
            await serve(repository, bundle)
            model = repository.find("echo")
            assert isinstance(model, GraphModel)
            answers = [model.submit(row(value)) for value in (1.0, bad, 2.0)]
            first, guilty, last = await asyncio.gather(*answers, return_exceptions=True)
            assert model.metrics.batch_size.read()[1] == 3, "they were to share a run"
        assert first.outputs["out_x"].tolist() == [[0.5, 1.0]]
        assert last.outputs["out_x"].tolist() == [[0.5, 2.0]]
        assert isinstance(guilty, RuntimeFailure)
        assert "not finite, in output 'out_x'; its manifest refuses them" in str(guilty)

    bundle, manifest = brought(tmp_path, models, "refuse")
    assert manifest.not_finite == "refuse"
    asyncio.run(main())


@pytest.mark.parametrize(("policy", "status"), [("pass", 200), ("refuse", 500)])
def test_tensors_pass_or_fail_as_the_manifest_says(
    tmp_path: Path, models: Path, serve: Serve, policy: Literal["pass", "refuse"], status: int
) -> None:
    brought(tmp_path, models, policy)
    client = serve(models=models)
    names = {"name": "names", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}
    for word in ("NaN", "Infinity", "-Infinity"):
        body = f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, {word}]}}, %s]}}'
        answer = client.post("/v2/models/echo/infer", content=body % str(names).replace("'", '"'))
        assert answer.status_code == status, answer.text
        assert (f'"data":[0.5,{word}]' in answer.text) == (policy == "pass")


def test_only_floats_are_looked_at() -> None:
    arrays = {
        "fine": np.array([1.5, 3e38], np.float32),
        "words": np.array(["nan"], object),
        "whole": np.array([-1]),
        "half": np.array([np.inf], np.float16),
        "brains": np.array([1, np.nan], ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3)),
    }
    assert not_finite(arrays) == ["half", "brains"]
