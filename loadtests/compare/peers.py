"""Who is compared, and how each is set up: with batches and without, where it has both.

What holds for all, so that it is fair: the same ONNX file, run by ONNX Runtime on one thread that does not spin, where
nothing else is said; as many processes that run it as there are cores; the cheapest bodies that the server takes; no
log of accesses, and no metrics where they can be left out; batches of at most 16 rows, which wait as briefly as the
server can be told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests.compare import wires
from loadtests.compare.wires import Wire

HERE: Final = Path(__file__).resolve().parent
ROWS: Final = 16
"""Most rows of a batch, of servers that gather them."""
WORKERS: Final = "{workers}"
"""In the place of how many processes shall run the model."""


@dataclass(frozen=True)
class Setting:
    """One way to set a server up.

    Attributes:
        name: of it, short.
        about: it, in words.
        wire: how the server is then asked.
        arguments: of `server.py`, behind the port.
    """

    name: str
    about: str
    wire: Wire
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Peer:
    """A server that inferd is compared with.

    Attributes:
        name: of its folder, and of its environment.
        title: as it calls itself.
        package: that it is, as its requirements name it.
        settings: the ways to set it up, of which the best counts.
        environment: variables that it is started with.
    """

    name: str
    title: str
    package: str
    settings: Sequence[Setting]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def program(self) -> Path:
        """What serves."""
        return HERE / self.name / "server.py"

    @property
    def version(self) -> str:
        """That its environment has."""
        pinned = (HERE / self.name / "requirements.txt").read_text(encoding="utf-8")
        return version_in(pinned, self.package)


def version_in(requirements: str, package: str) -> str:
    """The version of a package that requirements pin.

    Raises:
        ValueError: they don't.
    """
    found = re.search(rf"^{re.escape(package)}(?:\[[^]]*])?==([^\s;]+)", requirements, re.MULTILINE)
    if not found:
        raise ValueError(f"requirements.txt does not pin {package}")
    return found[1]


INFERD: Final = Setting(
    "",
    "a worker a core; otherwise as it comes, which gives a run that has the machine to itself a thread a core",
    wires.V2_RAW,
)

PEERS: Final[Sequence[Peer]] = (
    Peer(
        "fastapi",
        "FastAPI",
        "fastapi",
        (
            Setting(
                "raw",
                "uvicorn (uvloop, httptools) with a worker a core; an `async def` endpoint that runs the model inline",
                wires.RAW.at("/raw"),
                (WORKERS,),
            ),
            Setting(
                "raw, all cores a run",
                "the same, but each run has a thread a core, which spin as inferd's do",
                wires.RAW.at("/raw"),
                (WORKERS, WORKERS),
            ),
            Setting(
                "JSON",
                "the first, but a `def` endpoint, which runs in a pool of threads, with a pydantic body",
                wires.NUMBERS,
                (WORKERS,),
            ),
        ),
    ),
    Peer(
        "mosec",
        "mosec",
        "mosec",
        (
            Setting("no batches", "a worker process a core", wires.RAW.at("/inference"), (WORKERS, "1")),
            Setting(
                f"batches of {ROWS}",
                "a worker process a core; a batch waits for 1 ms, the least that there is",
                wires.RAW.at("/inference"),
                (WORKERS, str(ROWS)),
            ),
        ),
    ),
    Peer(
        "triton",
        "Triton (pytriton)",
        "nvidia-pytriton",
        (
            Setting(
                "no batches",
                "an instance a core; all of them are threads of one Python process, which is all that pytriton has",
                wires.V2_RAW,
                (WORKERS, "1"),
            ),
            Setting(
                f"batches of {ROWS}",
                "the same; the dynamic batcher, without delay",
                wires.V2_RAW,
                (WORKERS, str(ROWS)),
            ),
        ),
        # Its shared tensors start a process from the Python inside Triton, which fails where that is of another patch
        # release than this environment's; pictures as small as these cost no more without.
        {"PYTRITON_NO_TENSORSTORE": "1"},
    ),
    Peer(
        "litserve",
        "LitServe",
        "litserve",
        (
            Setting(
                "no batches",
                "a worker process a core, one process that speaks HTTP",
                wires.RAW.at("/predict"),
                (WORKERS, "1", "1", "zmq"),
            ),
            Setting(
                f"batches of {ROWS}",
                "the same; a batch waits for 1 ms",
                wires.RAW.at("/predict"),
                (WORKERS, str(ROWS), "1", "zmq"),
            ),
        ),
    ),
    Peer(
        "mlserver",
        "MLServer",
        "mlserver",
        (
            Setting("no batches", "a parallel worker a core", wires.V2_BASE64, (WORKERS, "1")),
            Setting(
                f"batches of {ROWS}",
                "the same; adaptive batches, which wait for 1 ms",
                wires.V2_BASE64,
                (WORKERS, str(ROWS)),
            ),
        ),
    ),
    Peer(
        "bentoml",
        "BentoML",
        "bentoml",
        (
            Setting("no batches", "a worker a core, each with one thread", wires.PICTURE_BASE64, (WORKERS, "1")),
            Setting(
                f"batches of {ROWS}",
                "the same; adaptive batches",
                wires.PICTURES_BASE64,
                (WORKERS, str(ROWS)),
            ),
        ),
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "ray",
        "Ray Serve",
        "ray",
        (
            Setting(
                "no batches",
                "a replica a core, set up for throughput (RAY_SERVE_THROUGHPUT_OPTIMIZED), the Python proxy: that of "
                "HAProxy listens on every interface",
                wires.RAW,
                (WORKERS, "1"),
            ),
            Setting(
                f"batches of {ROWS}",
                "the same; a batch waits for 1 ms",
                wires.RAW,
                (WORKERS, str(ROWS)),
            ),
        ),
        {
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what it has against listening anywhere but on 127.0.0.1
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    ),
)


def chosen(names: Sequence[str]) -> list[Peer]:
    """The peers of such names; all of them if none is named.

    Raises:
        ValueError: there is none of such a name.
    """
    unknown = sorted(set(names) - {one.name for one in PEERS})
    if unknown:
        raise ValueError(f"there is no {', '.join(unknown)}; there are {', '.join(one.name for one in PEERS)}")
    return [one for one in PEERS if not names or one.name in names]
