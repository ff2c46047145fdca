"""Reads the command line and the environment, and serves; the other commands are in files of their own."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from service.cli import asking, benching, doctor, drawing, folder, keys
from service.errors import InferdError
from service.machine import allow_files
from service.metrics import Metrics
from service.observability import configure_logging
from service.security.access import Access
from service.security.tls import Tls
from service.settings import ENV_PREFIX, Settings
from service.tracing import wants_traces
from service.workers.sizing import count_workers, files_of
from service.workers.supervisor import Supervisor

_OPTIONS = ("models", "host", "port", "workers")
"""Settings that have an option of the same name."""

_CLIENT_VARIABLES = {"INFERD_API_KEY", "INFERD_CA_FILE"}
_TRAINING_VARIABLES = {"INFERD_DATA_DIR", "INFERD_CACHE_DIR", "INFERD_RUNS_DIR"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 for a failure, 2 for wrong usage."""
    given = _parser().parse_args(arguments)
    try:
        settings = _settings(given)
        code: int = given.run(settings, given)
    except (InferdError, OSError, ValueError) as error:
        print(f"inferd: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="inferd",
        description="Serve small neural networks. Settings are INFERD_* variables; see docs/operations.md.",
    )
    parser.add_argument("--version", action="version", version=version("inferd"))
    parser.add_argument("--models", type=Path, help="folder of the models (INFERD_MODELS, default: models)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="answer HTTP requests")
    serve.add_argument("--host", help="address to listen on (INFERD_HOST, default: 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (INFERD_PORT, default: 8000)")
    serve.add_argument("--workers", help="processes that answer, or auto (INFERD_WORKERS, default: auto)")
    serve.set_defaults(run=_serve)

    for others in (folder, asking, drawing, benching, keys, doctor):
        others.add_commands(commands)
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    """Read the environment, with what the command line says put first."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name.upper() not in known | _CLIENT_VARIABLES | _TRAINING_VARIABLES:
            print(f"inferd: {name} is no setting of the server; see docs/operations.md", file=sys.stderr)
    said = {name: value for name in _OPTIONS if (value := getattr(given, name, None)) is not None}
    try:
        return Settings(**said)
    except ValidationError as error:
        problems = [f"{ENV_PREFIX}{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
        raise ValueError("; ".join(problems)) from error


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    configure_logging(settings.log_level)
    if not settings.models.is_dir():
        raise FileNotFoundError(f"the models folder {settings.models} does not exist (INFERD_MODELS)")
    # What every worker would fail on is said once.
    Access.of(settings, Metrics(version("inferd")))
    Tls.of(settings)
    wants_traces(settings)
    workers = count_workers(settings)
    allow_files(files_of(settings, workers))  # many systems begin with 1,024
    settings = settings.model_copy(update={"workers": workers, "models": settings.models.absolute()})
    if settings.workers == 1:
        from service.serving import serve_alone

        return serve_alone(settings)
    return asyncio.run(Supervisor(settings).run())
