"""The container image as tests need it: built by buildah and run by podman, as root, with no registry and no daemon.

`python -m tests.deploy.containers` builds it and prints its name. What has been built is taken from the layers that are
there already, so that a second call takes a few seconds.

Where the official base image has not been pulled, a stand-in takes its place: a minimal Debian of the same release,
with the same release of Python. What the official one has beyond that is not tested then.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGE: Final = "localhost/inferd:test"
STAND_IN: Final = "localhost/inferd-base:bookworm"
TOOLS: Final = ("buildah", "podman", "crun", "debootstrap")
DEBIAN: Final = ("bookworm", "ca-certificates,python3,python3-venv,python3-pip")
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
HARDENED: Final = (
    "--read-only",
    "--tmpfs=/tmp",
    "--user=10001:10001",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 60

_HYBRID = Path("/sys/fs/cgroup/unified")
"""Where a machine that has cgroups of version 1 mounts those of version 2 beside them, crun gets confused."""


def missing() -> str | None:
    """What keeps images from being built and run here, in words; None if nothing does."""
    if os.geteuid() != 0:
        return "containers are built and run by root alone here"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)} (Debian's packages of these names)" if absent else None


def podman(*arguments: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run podman, and give what it printed.

    Raises:
        AssertionError: it failed, and `check` is set; the message has what it said.
    """
    return _run(podman_command(*arguments), check=check, timeout_s=timeout_s)


def podman_command(*arguments: str) -> list[str]:
    """The command of `podman`, for who starts it otherwise; `podman_environment` belongs to it."""
    if not _HYBRID.is_mount():
        return ["podman", *arguments]
    script = f'mount --make-rprivate / && umount -l {_HYBRID} && exec podman "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "podman", *arguments]


def podman_environment() -> dict[str, str]:
    """The environment of `podman_command`."""
    return {**os.environ, "CONTAINERS_CONF": str(ROOT / "tests/deploy/containers.conf")}


def build_image(image: str = IMAGE, *, base: str | None = None, **arguments: str) -> str:
    """Build the Dockerfile of this checkout; `arguments` are its build arguments.

    Returns:
        The name of the image.

    Raises:
        AssertionError: it can't be built; the message has what the builder said.
    """
    arguments = {"BASE": base or base_image(), **arguments}
    with _one_at_a_time(), tempfile.TemporaryDirectory() as folder:
        command = [
            "buildah",
            "bud",
            "--isolation=chroot",
            "--pull-never",
            "--layers",
            "--format=docker",
            f"--tag={image}",
            f"--label=org.opencontainers.image.revision={revision()}",
        ]
        command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        if CERTIFICATES.exists():  # those that this machine trusts, as a network's own may be among them
            pip = Path(folder) / "pip.conf"
            pip.write_text("[global]\ncert=/run/ca.crt\n", encoding="utf-8")
            command += [f"--secret=id=pipconf,src={pip}", f"--secret=id=cabundle,src={CERTIFICATES}"]
        _run([*command, str(ROOT)], timeout_s=900)
    return image


def base_image() -> str:
    """The base that the Dockerfile names, if it has been pulled, else a stand-in, which is made if it is not there."""
    stated = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated, "the Dockerfile names no base"
    if has_image(stated[1]):
        return stated[1]
    with _one_at_a_time():
        if not has_image(STAND_IN):
            _make_stand_in()
    return STAND_IN


def has_image(name: str) -> bool:
    """Whether an image of this name is on this machine."""
    return _run(["buildah", "inspect", "--type=image", name], check=False).returncode == 0


def _make_stand_in() -> None:
    release, packages = DEBIAN
    with tempfile.TemporaryDirectory() as folder:
        _run(["debootstrap", "--variant=minbase", f"--include={packages}", release, folder], timeout_s=600)
        shutil.rmtree(Path(folder) / "var/cache/apt/archives", ignore_errors=True)
        container = _run(["buildah", "from", "scratch"]).stdout.strip()
        _run(["buildah", "copy", "--quiet", container, folder, "/"], timeout_s=300)
        _run(["buildah", "commit", "--quiet", "--rm", container, STAND_IN], timeout_s=300)


def version() -> str:
    """The version of this checkout."""
    stated: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return stated


def revision() -> str:
    """The commit of this checkout, or nothing where there is no git."""
    found = _run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


class Container:
    """One that runs, or has ended; see `running`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def execute(self, *command: str, check: bool = True) -> str:
        """Run a command in it, and give what it printed on standard output."""
        return podman("exec", self.name, *command, check=check).stdout

    def log(self) -> str:
        """What it wrote to standard output and standard error."""
        said = podman("logs", self.name)
        return said.stdout + said.stderr

    def state(self) -> Mapping[str, Any]:
        """What podman knows of it, such as `ExitCode` and `OOMKilled`."""
        state: Mapping[str, Any] = json.loads(podman("inspect", "--format={{json .State}}", self.name).stdout)
        return state

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        podman("kill", f"--signal={name}", self.name)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait until it has ended; gives its exit code."""
        return int(podman("wait", self.name, timeout_s=timeout_s).stdout)


@contextmanager
def running(
    *arguments: str, image: str = IMAGE, command: Sequence[str] = (), environment: Mapping[str, object] | None = None
) -> Iterator[Container]:
    """Run an image hardened, with `arguments` for podman beside that; it is removed afterwards, whatever happens.

    Its health is not checked, unless `arguments` say how.
    """
    name = f"inferd-test-{os.getpid()}-{time.monotonic_ns()}"
    if not any(one.startswith("--health") for one in arguments):
        arguments = ("--no-healthcheck", *arguments)
    variables = [f"--env={key}={value}" for key, value in (environment or {}).items()]
    try:
        podman("run", "--detach", f"--name={name}", *HARDENED, *variables, *arguments, image, *command)
        yield Container(name)
    finally:
        podman("rm", "--force", "--ignore", "--time=0", name)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two builders of the same would do the work twice, or disturb each other."""
    with Path(tempfile.gettempdir(), "inferd-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], *, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=podman_environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done


if __name__ == "__main__":
    problem = missing()
    if problem:
        raise SystemExit(f"containers: {problem}")
    print(build_image())
