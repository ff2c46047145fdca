"""What an image is made of, in megabytes (10^6).

`python -m tests.deploy.image.contents` writes the table of docs/operations.md.
"""

from __future__ import annotations

import json
from typing import Final

from tests.deploy.containers import IMAGE, base_image, podman

TOGETHER: Final = "All that is not the base"
PYTHON: Final = "Python packages of `requirements/serve.txt`"
LAYERS: Final = {
    "in /opt/inferd ": PYTHON,
    "in /models ": "the models",
    "in / ": "inferd itself",
    "apt-get": "tini and the account `inferd`",
}
"""What makes a layer, by something that only its instruction has."""

PACKAGES: Final = ("onnxruntime", "numpy", "onnx", "Pillow", "grpcio", "uvloop", "tokenizers")
"""The largest; `of them` in the table."""

_SIZES = """
import importlib.metadata, json, sys
sizes = {}
for name in sys.argv[1:]:
    files = importlib.metadata.files(name)
    sizes[name] = sum(path.stat().st_size for path in (file.locate() for file in files) if path.is_file())
print(json.dumps(sizes))
"""


def layers(image: str = IMAGE) -> dict[str, float]:
    """The megabytes of what the Dockerfile adds to its base, by what it is."""
    history = json.loads(podman("history", "--format=json", "--no-trunc", image).stdout)
    added = [(one["CreatedBy"], one["size"] / 1e6) for one in history]
    found: dict[str, float] = {}
    for instruction, size in added:
        for place, what in LAYERS.items():
            if place in f"{instruction} " and size:
                found[what] = size
    return found


def packages(image: str = IMAGE) -> dict[str, float]:
    """The megabytes of the largest Python packages."""
    said = podman("run", "--rm", "--no-healthcheck", "--entrypoint=python", image, "-c", _SIZES, *PACKAGES).stdout
    return {name: size / 1e6 for name, size in json.loads(said).items()}


def table(image: str = IMAGE) -> dict[str, float]:
    """All of it in the order of the docs."""
    together = (_size_of(image) - _size_of(base_image())) / 1e6
    of_layers = layers(image)
    return {TOGETHER: together, PYTHON: of_layers.pop(PYTHON), **packages(image), **of_layers}


def _size_of(image: str) -> int:
    return int(podman("image", "inspect", "--format={{.Size}}", image).stdout)


if __name__ == "__main__":
    print("| what | MB |\n|---|---|")
    for what, size in table().items():
        print(f"| {'... ' if what in PACKAGES else ''}{what} | {size:.1f} |")
