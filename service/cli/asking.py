"""The commands that ask a model: `predict`, `generate` and `translate`."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from service.cli.parsing import Commands, add_model
from service.cli.reaching import address_of, find, post
from service.errors import BadInput
from service.settings import Settings


def add_commands(commands: Commands) -> None:
    """Add the commands to those of `inferd`."""
    predict = commands.add_parser("predict", help="ask a model; needs no server")
    predict.add_argument("input", type=Path, help='an image, or a file NAME.json with {"inputs": ...} as a request has')
    add_model(predict)
    predict.add_argument("--top-k", type=int, help="so many labels; default: 5")
    predict.add_argument("--invert", action="store_true", help="for dark things on a light ground")
    predict.set_defaults(run=_predict)

    generate = commands.add_parser("generate", help="have a model continue a text, as it comes; needs no server")
    generate.add_argument("prompt", help="the text that is continued; - reads it from standard input")
    add_model(generate)
    generate.add_argument("--max-new-tokens", type=int, help="default: 100")
    generate.add_argument("--temperature", type=float, help="0 = always the likeliest token; default: 1")
    generate.add_argument("--top-k", type=int, help="choose among so many of the likeliest tokens")
    generate.add_argument("--top-p", type=float, help="choose among the likeliest that have this probability together")
    generate.add_argument("--seed", type=int, help="the same seed gives the same text")
    generate.add_argument("--stop", action="append", help="a text to end before; may be given more than once")
    generate.set_defaults(run=_generate)

    translate = commands.add_parser("translate", help="translate a text; needs no server")
    translate.add_argument("text", help="what is translated; - reads it from standard input")
    add_model(translate)
    translate.add_argument("--num-beams", type=int, help="beginnings that are kept; 1 is the quickest")
    translate.add_argument("--max-length", type=int, help="cut the translation of a sentence off after so many tokens")
    translate.add_argument("--length-penalty", type=float, help="the larger, the longer translations get")
    translate.add_argument("--alternatives", type=int, default=0, help="so many others, each on lines of its own")
    translate.set_defaults(run=_translate)


def _predict(settings: Settings, given: argparse.Namespace) -> int:
    from service.repository.bundle import LoadOptions, load_bundle

    content = given.input.read_bytes()
    said = {"top_k": given.top_k, "invert": given.invert or None}
    parameters = {name: value for name, value in said.items() if value is not None}
    if given.url:
        answer = _ask(given, content, parameters)
    else:
        bundle = load_bundle(find(settings, given), LoadOptions.of(settings))
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

    return load_bundle(find(settings, given), LoadOptions.of(settings)).generate(prompt, parameters)


def _ask_for_text(given: argparse.Namespace, prompt: str, parameters: Mapping[str, object]) -> Iterator[str]:
    """The texts of the events in which a server answers."""
    body = json.dumps({"inputs": prompt, "parameters": parameters, "stream": True}).encode()
    with post(address_of(given), body, "application/json") as response:
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
        with post(address_of(given), body, "application/json") as response:
            (answer,) = json.load(response)
        texts = [answer["translation_text"], *answer.get("alternatives", ())]
    else:
        from service.repository.bundle import LoadOptions, load_bundle

        (translated,) = load_bundle(find(settings, given), LoadOptions.of(settings)).translate(text, parameters)
        texts = [translated.text, *translated.alternatives]
    for one in texts:
        print(one, end="" if one.endswith("\n") else "\n")
    return 0


def _is_json(given: argparse.Namespace) -> bool:
    """Whether the file is a request in JSON, and not the input itself."""
    return bool(given.input.suffix.lower() == ".json")


def _ask(given: argparse.Namespace, content: bytes, parameters: dict[str, object]) -> object:
    query = urllib.parse.urlencode({name: str(value).lower() for name, value in parameters.items()})
    kind = "application/json" if _is_json(given) else "application/octet-stream"
    with post(f"{address_of(given)}?{query}", content, kind) as response:
        return json.load(response)
