"""The command that makes a key: `key`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

import msgspec

from service.cli.parsing import Commands
from service.security.keys import SCOPES, Key, digest_of, new_key, write_line
from service.settings import Settings


def add_commands(commands: Commands) -> None:
    """Add the command to those of `inferd`."""
    key = commands.add_parser(
        "key",
        help="make a key that opens a server",
        description="Writes the line for INFERD_API_KEYS_FILE to standard output, and the key to standard error, once: "
        "nothing keeps it. inferd key shop --rate 50 >> keys.jsonl",
    )
    key.add_argument("name", help="what logs and metrics call it: a-z, 0-9 and ._-")
    key.add_argument(
        "--scopes",
        type=lambda text: text.split(","),
        default=["predict"],
        help=f"what it is for, of {','.join(SCOPES)}; admin is all; default: predict",
    )
    key.add_argument("--rate", type=float, help="requests a second")
    key.add_argument("--burst", type=int, help="requests at once; default: those of a second")
    key.add_argument("--concurrency", type=int, help="requests in work at a time")
    key.add_argument("--expires", type=_time, metavar="DATE", help="when it ends: 2030-01-31, or 2030-01-31T12:00:00Z")
    key.set_defaults(run=_key)


def _key(_: Settings, given: argparse.Namespace) -> int:
    secret = new_key()
    names = ("name", "scopes", "rate", "burst", "concurrency", "expires")
    said = {name: value for name in names if (value := getattr(given, name)) is not None}
    key = msgspec.convert({**said, "sha256": digest_of(secret.encode()).hex()}, Key)
    print(write_line(key))
    print(f"the key, which is shown this once: {secret}", file=sys.stderr)
    return 0


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; one is 2030-01-31") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
