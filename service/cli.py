"""The command `inferd`: serve models, list them, verify them, or ask one from the command line.

What loads models is imported by the commands that load some: a supervisor does not, and should take no memory for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPResponse
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from service.errors import BadInput, BundleRefused, InferdError, NotFound
from service.manifest import TENSORS, read_manifest
from service.observability import configure_logging
from service.repository.scan import BundleFolder, scan
from service.settings import ENV_PREFIX, Settings
from service.workers.sizing import count_workers
from service.workers.supervisor import Supervisor

_OPTIONS = ("models", "host", "port", "workers")
"""Settings that have an option of the same name."""

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

    models = commands.add_parser("models", help="list the models in the folder")
    models.set_defaults(run=_models)

    verify = commands.add_parser("verify", help="check every file and replay every variant of every model")
    verify.set_defaults(run=_verify)

    add = commands.add_parser("import", help="make a bundle of an ONNX file, with golden outputs of its own")
    add.add_argument("file", type=Path, metavar="model.onnx")
    add.add_argument("--name", required=True, help="of the model")
    add.add_argument("--version", type=int, help="default: one more than the highest there is")
    add.add_argument("--title", help="what people call it; default: its name")
    add.add_argument("--licence", help="under which it may be used")
    add.add_argument("--labels", type=Path, metavar="labels.json", help="names of classes, in the order of the output")
    add.add_argument(
        "--golden", type=Path, metavar="inputs.npz", help="inputs to replay, by name, where none can be made up"
    )
    add.set_defaults(run=_import)

    predict = commands.add_parser("predict", help="ask a model; needs no server")
    predict.add_argument("input", type=Path, help='an image, or a file NAME.json with {"inputs": ...} as a request has')
    predict.add_argument("--model", required=True)
    predict.add_argument("--model-version", type=int, help="default: the highest")
    predict.add_argument("--url", help="ask the server at this address in place of loading the model here")
    predict.add_argument("--top-k", type=int, help="so many labels; default: 5")
    predict.add_argument("--invert", action="store_true", help="for dark things on a light ground")
    predict.set_defaults(run=_predict)

    generate = commands.add_parser("generate", help="have a model continue a text, as it comes; needs no server")
    generate.add_argument("prompt", help="the text that is continued; - reads it from standard input")
    generate.add_argument("--model", required=True)
    generate.add_argument("--model-version", type=int, help="default: the highest")
    generate.add_argument("--url", help="ask the server at this address in place of loading the model here")
    generate.add_argument("--max-new-tokens", type=int, help="default: 100")
    generate.add_argument("--temperature", type=float, help="0 = always the likeliest token; default: 1")
    generate.add_argument("--top-k", type=int, help="choose among so many of the likeliest tokens")
    generate.add_argument("--top-p", type=float, help="choose among the likeliest that have this probability together")
    generate.add_argument("--seed", type=int, help="the same seed gives the same text")
    generate.add_argument("--stop", action="append", help="a text to end before; may be given more than once")
    generate.set_defaults(run=_generate)

    translate = commands.add_parser("translate", help="translate a text; needs no server")
    translate.add_argument("text", help="what is translated; - reads it from standard input")
    translate.add_argument("--model", required=True)
    translate.add_argument("--model-version", type=int, help="default: the highest")
    translate.add_argument("--url", help="ask the server at this address in place of loading the model here")
    translate.add_argument("--num-beams", type=int, help="beginnings that are kept; 1 is the quickest")
    translate.add_argument("--max-length", type=int, help="cut the translation of a sentence off after so many tokens")
    translate.add_argument("--length-penalty", type=float, help="the larger, the longer translations get")
    translate.add_argument("--alternatives", type=int, default=0, help="so many others, each on lines of its own")
    translate.set_defaults(run=_translate)
    return parser


def _settings(given: argparse.Namespace) -> Settings:
    """Read the environment, with what the command line says put first."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name.upper() not in known | _TRAINING_VARIABLES:
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
    settings = settings.model_copy(update={"workers": count_workers(settings), "models": settings.models.absolute()})
    if settings.workers == 1:
        from service.serving import serve_alone

        return serve_alone(settings)
    return asyncio.run(Supervisor(settings).run())


def _models(settings: Settings, _: argparse.Namespace) -> int:
    for folder in scan(settings.models):
        if folder.is_bare:
            print(f"{folder.name}\t{folder.version}\t{TENSORS}\t-\tno manifest: served as its graph")
            continue
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
    from service.repository.bundle import LoadOptions, verify_bundle

    refused = 0
    for folder in scan(settings.models):
        try:
            manifest = verify_bundle(folder, LoadOptions.of(settings))
            print(f"{folder.name} {folder.version}: ok ({', '.join(manifest.variants)})")
        except InferdError as error:
            refused += 1
            print(f"{folder.name} {folder.version}: refused: {error}")
    return 1 if refused else 0


def _import(settings: Settings, given: argparse.Namespace) -> int:
    from service.repository.bundle import LoadOptions
    from service.repository.importing import Import, import_model

    wanted = Import(
        given.file, given.name, given.version, given.title, given.licence, labels=given.labels, golden=given.golden
    )
    made = import_model(settings.models, wanted, LoadOptions.of(settings))
    (graph,) = made.manifest.default.graphs.values()
    how = "requests share runs" if graph.batched else "requests run one by one"
    why = f": {made.no_batch}" if made.no_batch else ""
    print(f"{made.folder.name} {made.folder.version}: written to {made.folder.path}; {how}{why}")
    return 0


def _predict(settings: Settings, given: argparse.Namespace) -> int:
    from service.repository.bundle import LoadOptions, load_bundle

    content = given.input.read_bytes()
    said = {"top_k": given.top_k, "invert": given.invert or None}
    parameters = {name: value for name, value in said.items() if value is not None}
    if given.url:
        answer = _ask(given, content, parameters)
    else:
        bundle = load_bundle(_find(settings, given), LoadOptions.of(settings))
        if _is_json(given):
            request = json.loads(content)
            also = request.get("parameters", {}) if isinstance(request, dict) else None
            if not isinstance(also, dict) or "inputs" not in request:
                raise BadInput(f'{given.input} must have JSON {{"inputs": ..., "parameters": {{...}}}}')
            answer = bundle.predict(request["inputs"], {**parameters, **also})
        else:
            answer = bundle.predict(content, parameters)
    print(json.dumps(answer))
    return 0


def _generate(settings: Settings, given: argparse.Namespace) -> int:
    prompt = sys.stdin.read() if given.prompt == "-" else given.prompt
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop")
    parameters = {name: value for name in names if (value := getattr(given, name)) is not None}
    ask = _ask_for_text if given.url else partial(_generate_here, settings)
    try:
        for text in ask(given, prompt, parameters):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        pass  # whoever has read enough says so
    print()
    return 0


def _generate_here(
    settings: Settings, given: argparse.Namespace, prompt: str, parameters: Mapping[str, object]
) -> Iterator[str]:
    from service.repository.bundle import LoadOptions, load_bundle

    return load_bundle(_find(settings, given), LoadOptions.of(settings)).generate(prompt, parameters)


def _ask_for_text(given: argparse.Namespace, prompt: str, parameters: Mapping[str, object]) -> Iterator[str]:
    """The texts of the events in which a server answers."""
    body = json.dumps({"inputs": prompt, "parameters": parameters, "stream": True}).encode()
    with _post(_address(given), body, "application/json") as response:
        for line in response:
            if line.startswith(b"data:"):
                event = json.loads(line.removeprefix(b"data:"))
                if "error" in event:
                    raise ValueError(f"{given.url}: {event['error']}")
                yield event["token"]["text"]


def _translate(settings: Settings, given: argparse.Namespace) -> int:
    text = sys.stdin.read() if given.text == "-" else given.text
    names = ("num_beams", "max_length", "length_penalty")
    parameters = {name: value for name in names if (value := getattr(given, name)) is not None}
    parameters["num_return_sequences"] = given.alternatives + 1
    if given.url:
        body = json.dumps({"inputs": text, "parameters": parameters}).encode()
        with _post(_address(given), body, "application/json") as response:
            (answer,) = json.load(response)
        texts = [answer["translation_text"], *answer.get("alternatives", ())]
    else:
        from service.repository.bundle import LoadOptions, load_bundle

        (translated,) = load_bundle(_find(settings, given), LoadOptions.of(settings)).translate(text, parameters)
        texts = [translated.text, *translated.alternatives]
    for one in texts:
        print(one, end="" if one.endswith("\n") else "\n")
    return 0


def _is_json(given: argparse.Namespace) -> bool:
    """Whether the file is a request in JSON, and not the input itself."""
    return bool(given.input.suffix.lower() == ".json")


def _find(settings: Settings, given: argparse.Namespace) -> BundleFolder:
    folders = [folder for folder in scan(settings.models) if folder.name == given.model]
    if given.model_version is not None:
        folders = [folder for folder in folders if folder.version == given.model_version]
    if not folders:
        raise NotFound(f"there is no such model under {settings.models}: {given.model}")
    return folders[-1]


def _ask(given: argparse.Namespace, content: bytes, parameters: dict[str, object]) -> object:
    query = urllib.parse.urlencode({name: str(value).lower() for name, value in parameters.items()})
    kind = "application/json" if _is_json(given) else "application/octet-stream"
    with _post(f"{_address(given)}?{query}", content, kind) as response:
        return json.load(response)


def _address(given: argparse.Namespace) -> str:
    """Where the server that was named answers for the model that was named."""
    version_path = "" if given.model_version is None else f"/versions/{given.model_version}"
    return f"{given.url.rstrip('/')}/predict/{urllib.parse.quote(given.model)}{version_path}"


@contextmanager
def _post(address: str, content: bytes, kind: str) -> Iterator[HTTPResponse]:
    if not address.startswith(("http://", "https://")):
        raise ValueError("--url must begin with http:// or https://")
    request = urllib.request.Request(address, content, {"content-type": kind})  # noqa: S310 - the scheme was checked
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - as above
            yield response
    except urllib.error.HTTPError as error:
        message = f"{address.partition('?')[0]} answered {error.code}: {error.read().decode(errors='replace')}"
        raise ValueError(message) from error


if __name__ == "__main__":
    sys.exit(main())
