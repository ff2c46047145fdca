"""What is in the image, and what is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.sbom import write_sbom
from tests.deploy.containers import HARDENED, IMAGE, ROOT, base_image, build_image, podman, revision, version
from tests.deploy.image.contents import PACKAGES, TOGETHER, layers, table

MOST_MEGABYTES = 400
NEVER_THERE = ("gcc", "cc", "g++", "c++", "clang", "ld", "as", "make", "git", "curl", "wget")


def inside(image: str, *command: str) -> str:
    """What a command prints that is run in the image as the server is, on a disk that may be written to."""
    writable = [one for one in HARDENED if one != "--read-only"]
    return podman("run", "--rm", "--no-healthcheck", "--entrypoint=", *writable, image, *command).stdout


def locked() -> dict[str, str]:
    """The versions of all that is locked for serving, which the image should have."""
    text = (ROOT / "requirements" / "serve.txt").read_text(encoding="utf-8")
    pins = [Requirement(line.rstrip(" \\")) for line in text.splitlines() if re.match(r"[a-z0-9-]+==", line)]
    applying = [pin for pin in pins if not pin.marker or pin.marker.evaluate()]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in applying}


def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", "--failure-threshold=style", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_labels_account_and_signal(image: str) -> None:
    (facts,) = json.loads(podman("image", "inspect", image).stdout)
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in facts["Labels"].items()}
    assert labels["title"] == "inferd"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == inside(image, "inferd", "--version").strip() == version()
    assert labels["revision"] == revision()
    assert facts["Config"]["User"] == "10001:10001"
    assert facts["Config"]["StopSignal"] == "SIGTERM"
    assert set(facts["Config"]["ExposedPorts"]) == {"8000/tcp", "8001/tcp", "8002/tcp"}
    assert facts["Healthcheck"]["Test"] == ["CMD", "python", "-m", "service.healthcheck"]


def test_no_compiler_no_tool_that_fetches_and_no_training(image: str) -> None:
    script = 'for one in "$@"; do command -v "$one" || true; done'
    assert inside(image, "sh", "-c", script, "sh", *NEVER_THERE) == ""
    script = "import importlib.util as u, sys; print([one for one in sys.argv[1:] if u.find_spec(one)])"
    assert inside(image, "python", "-c", script, "torch", "training", "pip", "setuptools", "pytest") == "[]\n"
    assert inside(image, "python", "-c", script, "onnxruntime", "service") == "['onnxruntime', 'service']\n"


def test_python_packages_are_those_of_the_lock(image: str) -> None:
    script = (
        "import importlib.metadata as m, json, re\n"
        "print(json.dumps({re.sub('[-_.]+', '-', d.name).lower(): d.version for d in m.distributions()}))"
    )
    found = json.loads(inside(image, "python", "-c", script))
    assert found.pop("inferd") == version()
    assert found == locked()


def test_the_server_can_change_nothing_that_it_runs(image: str) -> None:
    find = (
        r"find / -xdev \( -path /proc -o -path /sys -o -path /dev \) -prune -o -writable ! -type l -print 2>/dev/null"
    )
    places = set(inside(image, "sh", "-c", f"{find} || true").split())
    assert "/var/cache/inferd" in places
    of_everybody = ("/tmp", "/var/tmp", "/run")  # noqa: S108 - named, and not written to
    assert [place for place in places if not place.startswith((*of_everybody, "/var/cache/inferd"))] == []


def test_it_is_small_and_the_docs_say_how_small(image: str) -> None:
    measured = table(image)
    assert len(layers(image)) == 4
    assert measured[TOGETHER] <= MOST_MEGABYTES
    assert measured[TOGETHER] == pytest.approx(sum(layers(image).values()), rel=0.02)
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for what, size in measured.items():
        row = f"| {'... ' if what in PACKAGES else ''}{what} | "
        said = re.search(re.escape(row) + r"([\d.]+) \|", text)
        assert said, (
            f"docs/operations.md has no row for {what}; make the table anew: python -m tests.deploy.image.contents"
        )
        assert float(said[1]) == pytest.approx(size, rel=0.1, abs=1), f"{what}: {said[1]} MB in docs/operations.md"


@pytest.mark.parametrize(
    ("variant", "said"), [("gpu", "VARIANT=gpu needs a BASE with CUDA"), ("tpu", "VARIANT is cpu or gpu, not tpu")]
)
def test_a_variant_that_can_not_be_is_refused(image: str, variant: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        build_image("localhost/inferd:refused", base=base_image(), VARIANT=variant)


def test_its_bill_of_materials_has_everything_that_is_locked(image: str, tmp_path: Path) -> None:
    write_sbom(image, tmp_path / "sbom.json")
    bill = json.loads((tmp_path / "sbom.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == IMAGE
    found = {(one["name"], one.get("version")) for one in bill["components"]}
    assert {*locked().items(), ("inferd", version())} - found == set()
    assert {"tini", "libc6"} <= {name for name, _ in found}
