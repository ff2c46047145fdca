from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import Browser, sync_playwright

from tests.browser.browsing import CHROMIUM, FLAGS, ROOT
from tests.e2e.server import Server, running_server

SERVE_PYTHON = ROOT / ".venv" / "serve" / "bin" / "python"
KEYS = {"seer": ["predict"], "watcher": ["predict", "metrics"], "meter": ["metrics"]}
"""Keys by their names, which are their secrets too, and what they open."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bundles that ship, where others may be put beside them."""
    folder = tmp_path_factory.mktemp("all") / "models"
    shutil.copytree(ROOT / "models", folder)
    return folder


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    """A server of all bundles, that looks for others."""
    with running_server(python=SERVE_PYTHON, models=folder, model_control="poll", poll_s=0.5, profile="off") as server:
        yield server


@pytest.fixture(scope="session")
def url(server: Server) -> str:
    return server.url


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of nothing but an ONNX file."""
    folder = tmp_path_factory.mktemp("bare")
    write_bare(folder, "wine")
    with running_server(python=SERVE_PYTHON, models=folder, profile="off") as server:
        yield server.url


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that asks for a key."""
    folder = tmp_path_factory.mktemp("locked")
    shutil.copytree(ROOT / "models" / "fashion-classifier", folder / "fashion-classifier")
    keys = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    lines = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "scopes": scopes}
        for name, scopes in KEYS.items()
    ]
    keys.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    keys.chmod(0o600)
    with running_server(python=SERVE_PYTHON, models=folder, api_keys_file=keys, profile="off") as server:
        yield server.url


def write_bare(folder: Path, name: str, version: int = 1) -> None:
    """Write a graph of two inputs and three outputs, of which one is a text and one may be looked at as a picture."""
    generator = np.random.default_rng(3)
    weights = {
        "weights": generator.standard_normal((4, 3)).astype(np.float32),
        "offset": np.array([0.5, 0, -0.5], np.float32),
        "shape": np.array([-1, 1, 8, 8], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["mixed"]),
        helper.make_node("Add", ["mixed", "offset"], ["scores"]),
        helper.make_node("Reshape", ["pixels", "shape"], ["picture"]),
        helper.make_node("Identity", ["note"], ["echo"]),
    ]
    graph = helper.make_graph(
        nodes,
        "wine",
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64]),
            helper.make_tensor_value_info("note", TensorProto.STRING, ["batch", 1]),
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["batch", 1, 8, 8]),
            helper.make_tensor_value_info("echo", TensorProto.STRING, ["batch", 1]),
        ],
        initializer=[numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    place = folder / name / str(version)
    place.parent.mkdir(exist_ok=True)
    writing = folder / f".{name}-{version}"
    writing.mkdir()
    (writing / "model.onnx").write_bytes(model.SerializeToString())
    writing.rename(place)
