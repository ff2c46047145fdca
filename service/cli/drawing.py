"""The command that has pictures drawn: `draw`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

from service.cli.parsing import Commands, add_model
from service.cli.reaching import address_of, find, post
from service.settings import Settings

_FORMATS = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
"""The format of a file, by how its name ends."""

_NUMBER = "{}"
"""Stands for a picture's number in the names of files."""


def add_commands(commands: Commands) -> None:
    """Add the command to those of `inferd`."""
    draw = commands.add_parser("draw", help="have a model draw pictures; needs no server")
    draw.add_argument("text", nargs="?", help="says what is drawn; - reads it from standard input")
    add_model(draw)
    draw.add_argument("--label", help="a class that is drawn, in place of a text")
    draw.add_argument("--n", type=int, default=1, help="so many pictures; default: 1")
    draw.add_argument("--seed", type=int, help="the same seed gives the same pictures; default: a new one")
    draw.add_argument("--truncation", type=float, help="below 1, pictures are more alike, and more like their class")
    draw.add_argument("--nearest", action="store_true", help="draw what comes nearest to a text that means nothing")
    draw.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="of a picture; default: the model's own")
    draw.add_argument("--columns", type=int, help="of the grid; default: what comes nearest to a square")
    draw.add_argument(
        "-o",
        "--output",
        required=True,
        help=f"file: .png, .webp or .jpg; several pictures become a grid, or a file each where {_NUMBER} stands for a "
        "number, as in shoe-{}.png; what is there is replaced",
    )
    draw.set_defaults(run=_draw)


def _draw(settings: Settings, given: argparse.Namespace) -> int:
    format = _FORMATS.get(Path(given.output).suffix.lower())
    if format is None:
        raise ValueError(f"{given.output}: the name must end with one of {', '.join(_FORMATS)}")
    if given.text == "-":
        given.text = sys.stdin.read()
    parameters = {
        "label": given.label,
        "num_images": given.n,
        "seed": given.seed,
        "truncation": given.truncation,
        "strict": not given.nearest,
        "width": given.size and given.size[0],
        "height": given.size and given.size[1],
    }
    apart = _NUMBER in given.output
    if apart and given.columns is not None:
        raise ValueError(f"--columns are of a grid, and {given.output} asks for a file each")
    columns = True if given.columns is None else given.columns
    grid = False if apart or (given.n == 1 and given.columns is None) else columns
    draw = _draw_there if given.url else _draw_here
    files, seed = draw(settings, given, parameters, format, grid)
    digits = len(str(len(files)))
    for number, content in enumerate(files, 1):
        Path(given.output.replace(_NUMBER, str(number).zfill(digits))).write_bytes(content)
    print(f"{given.output}: seed {seed}")
    return 0


def _draw_here(
    settings: Settings, given: argparse.Namespace, parameters: Mapping[str, object], format: str, grid: bool | int
) -> tuple[list[bytes], str]:
    """Files of pictures and the seed that they are from, by a model that is loaded for it."""
    from service import pictures
    from service.repository.bundle import LoadOptions, load_bundle

    drawings = load_bundle(find(settings, given), LoadOptions.of(settings)).draw(given.text, parameters)
    pixels = list(drawings.pixels)
    if grid is not False:
        pixels = [pictures.grid(drawings.pixels, None if grid is True else grid)]
    return [pictures.write(one, format) for one in pixels], str(drawings.seed)


def _draw_there(
    _: Settings, given: argparse.Namespace, parameters: Mapping[str, object], format: str, grid: bool | int
) -> tuple[list[bytes], str]:
    """Likewise, by a server."""
    asked = {"inputs": given.text, "parameters": {**parameters, "format": format, "grid": grid}}
    accept = "application/json" if grid is False else "image/*"
    with post(address_of(given), json.dumps(asked).encode(), "application/json", accept) as response:
        content = response.read()
        seed = str(response.headers["x-inferd-seed"])
    files = [b64decode(one["image"]) for one in json.loads(content)] if grid is False else [content]
    return files, seed


def _size(text: str) -> tuple[int, int]:
    """Width and height, as an option has them."""
    size = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if size is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; one is 56x56")
    return int(size[1]), int(size[2])
