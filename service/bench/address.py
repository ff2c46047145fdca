"""Where a server is: its address, and what it says of a model there."""

from __future__ import annotations

import json
import socket
import urllib.parse
from collections.abc import Collection
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Address:
    """Of a server that speaks HTTP.

    Attributes:
        host: name or number.
        port: of TCP.
        prefix: what every path begins with: nothing, or a path without a slash at its end.
    """

    host: str
    port: int
    prefix: str = ""

    @classmethod
    def of(cls, url: str) -> Address:
        """Read an address such as `http://127.0.0.1:8000`.

        Raises:
            ValueError: it is none, or not of plain HTTP.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"--url must be like http://127.0.0.1:8000, not {url!r}; https is not measured")
        return cls(parts.hostname, parts.port or 80, urllib.parse.quote(parts.path.rstrip("/"), safe="/%"))

    def __str__(self) -> str:
        return f"http://{self.authority}{self.prefix}"

    @property
    def authority(self) -> str:
        """Host and port, as the header `host` has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def resolved(self) -> tuple[socket.AddressFamily, Any]:
        """The family and the address of a socket that connects there; of several, the first that somebody answers at.

        Raises:
            OSError: the host is not known, or nobody answers.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise OSError(f"{self} can't be found: {error}") from error
        if len(found) == 1:
            return found[0][0], found[0][4]
        problem: OSError | None = None
        for family, kind, _, _, address in found:  # localhost may have two, of which a server has one
            with socket.socket(family, kind) as tried:
                tried.settimeout(_TIMEOUT_S)
                try:
                    tried.connect(address)
                except OSError as error:
                    problem = error
                else:
                    return family, address
        raise OSError(f"{self} can't be reached: {problem}")

    def get(self, path: str, *, allowed: Collection[int] = (200,)) -> Any:
        """What the server answers to GET, read as JSON.

        Args:
            path: behind the prefix.
            allowed: statuses that are no error.

        Raises:
            OSError: it can't be reached.
            ValueError: it answers an error, or no JSON.
        """
        connection = HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", f"{self.prefix}{path}")
            response = connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            raise OSError(f"{self} can't be reached: {error}") from error
        finally:
            connection.close()
        if response.status not in allowed:
            text = content[:500].decode(errors="replace")
            raise ValueError(f"{self}{path} answered {response.status}: {text}")
        try:
            return json.loads(content)
        except ValueError as error:
            raise ValueError(f"{self}{path} answered no JSON: {error}") from error


def path_of_model(model: str, version: int | None, before: str) -> str:
    """The path of a model below `before`, of its highest version where none is named."""
    path = f"{before}/{urllib.parse.quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{version}"
