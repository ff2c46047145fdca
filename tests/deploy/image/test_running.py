"""The image as it is run where nobody is trusted: hardened, and with little memory."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from tests.deploy.containers import HARDENED, ROOT, podman, running
from tests.deploy.image.asking import PICTURE, Client, Served
from tests.deploy.image.conftest import serving

MEBIBYTES = 2**20


def test_it_is_not_root_on_a_disk_that_is_read_only_without_capabilities(served: Served) -> None:
    assert served.container.execute("id", "-u") == "10001\n"
    status = served.container.execute("cat", "/proc/1/status")
    facts = dict(line.split(":", 1) for line in status.splitlines())
    assert {facts[f"Cap{kind}"].strip() for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert facts["NoNewPrivs"].strip() == "1"
    assert served.container.execute("sh", "-c", "touch /opt/inferd/x 2>&1 || true").endswith("Read-only file system\n")
    assert served.container.execute("cat", "/proc/1/comm") == "tini\n"


def test_a_classification_has_the_scores_that_the_bundle_says(served: Served) -> None:
    folder = ROOT / "models" / "fashion-classifier" / "1"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    variant = manifest["default_variant"]
    tolerance = manifest["variants"][variant]["tolerance"]
    with np.load(folder / "golden.npz") as golden:
        pixels = golden["inputs/model/image"]
        expected, of_pytorch = golden[f"runtime/{variant}/model/logits"], golden["framework/model/logits"]
    tensor = {"name": "image", "datatype": "FP32", "shape": pixels.shape, "data": pixels.ravel().tolist()}
    answer = json.loads(served.post("/v2/models/fashion-classifier/infer", {"inputs": [tensor]}))
    logits = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance["runtime"])
    np.testing.assert_allclose(logits, of_pytorch, rtol=0, atol=tolerance["framework"])


def test_every_model_that_is_in_it_answers(served: Served) -> None:
    scores = json.loads(served.post("/predict/fashion-classifier", PICTURE))
    assert len(scores) >= 1
    assert scores[0]["score"] > 0.5
    asked = {"inputs": "ROMEO:", "parameters": {"max_new_tokens": 20, "seed": 7}}
    (text,), (again,) = (json.loads(served.post("/predict/shakespeare", asked)) for _ in range(2))
    assert len(text["generated_text"]) == 20
    assert text == again
    (translation,) = json.loads(served.post("/predict/en-de", {"inputs": "The dog is sleeping."}))
    assert "Hund" in translation["translation_text"]
    assert served.post("/predict/fashion-gan", {"inputs": "an ankle boot"}).startswith(b"\x89PNG\r\n")


def test_metrics_have_a_port_of_their_own(served: Served) -> None:
    assert served.metric("inferd_requests_total") >= 1
    status, _ = served.get("/metrics")
    assert status == 404


def test_nothing_is_told_to_the_makers_of_the_runtime_and_the_log_is_json(served: Served) -> None:
    environment = served.container.execute("printenv")
    assert "ORT_DISABLE_TELEMETRY=1\n" in environment
    for line in served.container.log().splitlines():
        assert json.loads(line)["level"] == "info", line


@pytest.mark.parametrize(
    ("workers", "memory", "keep_alive", "delay_s"),
    [(1, "512m", False, 0), (2, "1g", True, 0.5)],
    ids=["alone, fresh connections", "two workers, kept connections, with a delay"],
)
def test_sigterm_under_load_loses_no_request_and_ends_with_0(
    image: str, workers: int, memory: str, keep_alive: bool, delay_s: float
) -> None:
    with serving(f"--memory={memory}", image=image, workers=workers, drain_delay_s=delay_s) as server:
        clients = [Client(server.port, keep_alive=keep_alive) for _ in range(4)]
        for client in clients:
            client.start()
        while sum(client.answered for client in clients) < 200 and all(client.is_alive() for client in clients):
            clients[0].join(0.01)
        server.container.signal("TERM")
        code = server.container.wait()
        for client in clients:
            client.join()
        assert [loss for client in clients for loss in client.lost] == []
        assert sum(client.answered for client in clients) >= 200
        assert code == 0


@pytest.fixture(scope="session")
def hungry(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with the one that takes as many bytes as it is asked to."""
    folder = tmp_path_factory.mktemp("hungry")
    folder.chmod(0o777)  # who runs in the container writes into it
    script = Path(__file__).with_name("hungry.py")
    mounts = [f"--volume={folder}:/made", f"--volume={script}:/hungry.py:ro"]
    podman("run", "--rm", "--entrypoint=python", *HARDENED, *mounts, image, "/hungry.py", "/made/hungry/1/model.onnx")
    return folder


def take(server: Served, count: int) -> float | str:
    """Have the model take so many bytes; the sum of their floats, or why there is none."""
    try:
        asked = {"inputs": {"count": [count // 4]}}
        (total,) = json.loads(server.post("/predict/hungry", asked))["sum"]
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code}: {error.read().decode()}"
    except OSError as error:
        return repr(error)
    return float(total)


def test_past_its_memory_one_process_ends_with_137(image: str, hungry: Path) -> None:
    much = 480 * MEBIBYTES
    for memory, ends in (("1g", False), ("512m", True)):
        limits = (f"--memory={memory}", f"--memory-swap={memory}", f"--volume={hungry}:/models:ro")
        with serving(*limits, image=image, workers=1) as server:
            assert take(server, 64 * MEBIBYTES) == 16 * MEBIBYTES
            taken = take(server, much)
            if ends:
                assert isinstance(taken, str), "so much did not fit into it"
                assert server.container.wait() == 137
            else:
                assert taken == pytest.approx(much // 4)
                assert server.container.state()["Running"]


def test_past_its_memory_one_of_two_workers_is_replaced_and_counted(image: str, hungry: Path) -> None:
    limits = ("--memory=1g", "--memory-swap=1g", f"--volume={hungry}:/models:ro")
    with serving(*limits, image=image, workers=2) as server:
        assert server.metric("inferd_worker_restarts_total") == 0
        assert server.metric("inferd_workers") == 2
        deadline = time.monotonic() + 60
        while not server.metric("inferd_worker_restarts_total"):
            assert time.monotonic() < deadline, server.container.log()
            askers = [threading.Thread(target=take, args=(server, 450 * MEBIBYTES)) for _ in range(8)]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join()
        while server.metric("inferd_workers") < 2 or server.get("/health/ready")[0] != 200:
            assert time.monotonic() < deadline, server.container.log()
            time.sleep(0.1)  # a process of its own: there is nothing to wait on but its answers
        assert take(server, 4 * MEBIBYTES) == MEBIBYTES
        assert server.container.state()["Running"]
        assert "ended with SIGKILL; it is replaced" in server.container.log()
        assert server.metric("inferd_worker_restarts_total") >= 1


def test_times_are_kept_in_a_volume(image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with serving("--memory=512m", f"--volume={tmp_path}:/var/cache/inferd", image=image):
        kept = sorted(file.name.rpartition("-")[0] for file in tmp_path.iterdir())
        assert kept == sorted(folder.name for folder in (ROOT / "models").iterdir())


def test_what_is_left_behind_is_reaped(served: Served) -> None:
    orphan = (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: os._exit(0)\n    os._exit(0)\nos.wait()"
    )
    served.container.execute("python", "-c", orphan)
    deadline = time.monotonic() + 10
    script = "grep -l '^State:.Z' /proc/[0-9]*/status || true"
    while served.container.execute("sh", "-c", script):
        assert time.monotonic() < deadline, served.container.execute("sh", "-c", f"cat $({script})")


def test_health_is_checked_where_the_defaults_say(image: str) -> None:
    # A network of its own, so that it may listen on every address; podman has no timer here, and is asked instead.
    with running("--network=none", "--memory=512m", "--health-interval=disable", image=image) as container:
        deadline = time.monotonic() + 60
        while podman("healthcheck", "run", container.name, check=False).returncode:
            assert time.monotonic() < deadline, container.log()
        assert container.execute("python", "-m", "service.healthcheck") == "ready\n"
        ask = "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1]).status)"
        assert container.execute("python", "-c", ask, "http://127.0.0.1:8002/metrics") == "200\n"
        container.signal("TERM")
        assert container.wait() == 0
    with running("--network=none", "--health-interval=disable", image=image, command=("models",)) as container:
        container.wait()
        assert podman("healthcheck", "run", container.name, check=False).returncode != 0
