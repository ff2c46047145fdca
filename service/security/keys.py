"""Keys: what a file says of each, one a line, and how a new one is made.

The file has no keys in it, but their SHA-256. A slow hash, as for passwords, would add nothing: a key is 256 random
bits, which nobody finds by trying, and it would have to be computed for every request.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec

logger = logging.getLogger(__name__)

Scope: TypeAlias = Literal["predict", "metrics", "admin"]
"""What a key may be for; `admin` is all of it, as who may change what serves gains nothing by asking it."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

MOST_KEYS = 1024
_MOST_BYTES = 2**20
_PREFIX = "inferd_"
"""What new keys begin with, so that whoever searches a repository for secrets finds them."""
_RANDOM_BYTES = 32


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A line of the file.

    Attributes:
        name: what logs, metrics and errors call it.
        sha256: of the key, in hexadecimal.
        scopes: what it may be used for.
        rate: requests a second, over a longer time; None = any.
        burst: so many may come at once; None = those of a second.
        concurrency: so many may be in work at a time; None = any.
        expires: when it ends.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None = None
    burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense together."""
        if self.burst is not None and self.rate is None:
            raise ValueError("burst is of a rate, and there is none")

    @property
    def digest(self) -> bytes:
        """What `digest_of` gives for the key itself."""
        return bytes.fromhex(self.sha256)


_LINE = msgspec.json.Decoder(Key)
_EXPECTED = (
    'a line is {"name": a-z, 0-9 and ._-, "sha256": 64 digits in lower case, "scopes": some of '
    f'{", ".join(SCOPES)}}}, and may have "rate" (requests a second, over 0), "burst", "concurrency" (1 or more) and '
    '"expires" ("2030-01-31T00:00:00Z")'
)


def digest_of(secret: bytes) -> bytes:
    """What is known of a key here."""
    return hashlib.sha256(secret).digest()


def new_key() -> str:
    """Make a key that nobody has."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def write_line(key: Key) -> str:
    """The line of the file that lets `key` in."""
    return msgspec.json.encode(key).decode()


def read_keys(path: Path) -> list[Key]:
    """Read a file of keys. Empty lines, and those that begin with `#`, say nothing.

    Raises:
        OSError: it can't be read.
        ValueError: it is no such file; the message has the line, and what is allowed.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
        mode = path.stat().st_mode
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        may = "change" if mode & stat.S_IWOTH else "read"
        logger.warning("%s: every user of this machine may %s it; chmod 600 keeps others out", path, may)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path}: has more than {_MOST_BYTES} bytes")
    keys: dict[str, Key] = {}
    hashes: dict[str, str] = {}
    for number, key in _lines(path, content):
        if key.name in keys:
            raise ValueError(f"{path}, line {number}: there is another key {key.name!r} above; names are unique")
        if key.sha256 in hashes:
            raise ValueError(f"{path}, line {number}: {hashes[key.sha256]!r} above is the same key")
        if len(keys) == MOST_KEYS:
            raise ValueError(f"{path}, line {number}: there may be {MOST_KEYS} keys at most")
        keys[key.name] = key
        hashes[key.sha256] = key.name
    return list(keys.values())


def _lines(path: Path, content: bytes) -> Iterator[tuple[int, Key]]:
    for number, line in enumerate(content.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        try:
            yield number, _LINE.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: {error}; {_EXPECTED}") from error
