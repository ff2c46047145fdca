"""The command `inferd`: serve models, list them, verify them, or ask one from the command line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from service.app import create_app, load_options
from service.errors import BundleRefused, InferdError, NotFound
from service.manifest import read_manifest
from service.observability import configure_logging
from service.repository.bundle import load_bundle, verify_bundle
from service.repository.scan import BundleFolder, scan
from service.server import DrainingServer
from service.settings import ENV_PREFIX, Settings

_TRAINING_VARIABLES = {"INFERD_DATA_DIR", "INFERD_CACHE_DIR", "INFERD_RUNS_DIR"}
_LINGER_S = 0.2


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
    serve.set_defaults(run=_serve)

    models = commands.add_parser("models", help="list the models in the folder")
    models.set_defaults(run=_models)

    verify = commands.add_parser("verify", help="check every file and replay every variant of every model")
    verify.set_defaults(run=_verify)

    predict = commands.add_parser("predict", help="ask a model about an image; needs no server")
    predict.add_argument("image", type=Path)
    predict.add_argument("--model", required=True)
    predict.add_argument("--model-version", type=int, help="default: the highest")
    predict.add_argument("--url", help="ask the server at this address in place of loading the model here")
    predict.add_argument("--top-k", type=int, default=5)
    predict.add_argument("--invert", action="store_true", help="for dark things on a light ground")
    predict.set_defaults(run=_predict)
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    """Read the environment, with what the command line says put first."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name.upper() not in known | _TRAINING_VARIABLES:
            print(f"inferd: {name} is no setting of the server; see docs/operations.md", file=sys.stderr)
    said = {name: value for name in ("models", "host", "port") if (value := getattr(given, name, None)) is not None}
    try:
        return Settings(**said)
    except ValidationError as error:
        problems = [f"{ENV_PREFIX}{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
        raise ValueError("; ".join(problems)) from error


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    configure_logging(settings.log_level)
    if not settings.models.is_dir():
        raise FileNotFoundError(f"the models folder {settings.models} does not exist (INFERD_MODELS)")
    server = DrainingServer(create_app(settings), settings)
    server.run()
    if server.started and _threads_linger():
        # They work for callers who have been given up, and would keep the process from ending.
        logging.shutdown()
        os._exit(0)
    return 0 if server.started else 1


def _threads_linger() -> bool:
    """Whether threads still work that Python would wait for at exit; idle ones get a moment to end."""
    threads = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in threads:
        thread.join(_LINGER_S)
    return any(thread.is_alive() for thread in threads)


def _models(settings: Settings, _: argparse.Namespace) -> int:
    for folder in scan(settings.models):
        try:
            manifest = read_manifest(folder.path)
        except BundleRefused as error:
            print(f"{folder.name}\t{folder.version}\trefused: {error}")
            continue
        served = [figure for figure in manifest.quality if figure.variant == manifest.default_variant]
        figures = ", ".join(f"{figure.metric} {figure.value:.4g} ({figure.split})" for figure in served[:2])
        print(f"{folder.name}\t{folder.version}\t{manifest.task}\t{manifest.default_variant}\t{figures}")
    return 0


def _verify(settings: Settings, _: argparse.Namespace) -> int:
    refused = 0
    for folder in scan(settings.models):
        try:
            manifest = verify_bundle(folder, load_options(settings))
            print(f"{folder.name} {folder.version}: ok ({', '.join(manifest.variants)})")
        except InferdError as error:
            refused += 1
            print(f"{folder.name} {folder.version}: refused: {error}")
    return 1 if refused else 0


def _predict(settings: Settings, given: argparse.Namespace) -> int:
    picture = given.image.read_bytes()
    parameters = {"top_k": given.top_k, "invert": given.invert or None}
    if given.url:
        answer = _ask(given, picture, {name: value for name, value in parameters.items() if value is not None})
    else:
        answer = load_bundle(_find(settings, given), load_options(settings)).predict(picture, parameters)
    print(json.dumps(answer))
    return 0


def _find(settings: Settings, given: argparse.Namespace) -> BundleFolder:
    folders = [folder for folder in scan(settings.models) if folder.name == given.model]
    if given.model_version is not None:
        folders = [folder for folder in folders if folder.version == given.model_version]
    if not folders:
        raise NotFound(f"there is no such model under {settings.models}: {given.model}")
    return folders[-1]


def _ask(given: argparse.Namespace, picture: bytes, parameters: dict[str, object]) -> object:
    version_path = "" if given.model_version is None else f"/versions/{given.model_version}"
    address = f"{given.url.rstrip('/')}/predict/{urllib.parse.quote(given.model)}{version_path}"
    if not address.startswith(("http://", "https://")):
        raise ValueError("--url must begin with http:// or https://")
    query = urllib.parse.urlencode({name: str(value).lower() for name, value in parameters.items()})
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        f"{address}?{query}", picture, {"content-type": "application/octet-stream"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - as above
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{address} answered {error.code}: {error.read().decode(errors='replace')}") from error


if __name__ == "__main__":
    sys.exit(main())
