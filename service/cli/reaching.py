"""The model that a command asks: in the folder, or at a server."""

from __future__ import annotations

import argparse
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

from service.errors import NotFound
from service.repository.scan import BundleFolder, scan
from service.settings import Settings


def find(settings: Settings, given: argparse.Namespace) -> BundleFolder:
    """Where the model that was named lies.

    Raises:
        NotFound: there is none.
    """
    folders = [folder for folder in scan(settings.models) if folder.name == given.model]
    if given.model_version is not None:
        folders = [folder for folder in folders if folder.version == given.model_version]
    if not folders:
        version = "" if given.model_version is None else f" version {given.model_version}"
        raise NotFound(f"there is no such model under {settings.models}: {given.model}{version}")
    return folders[-1]


def address_of(given: argparse.Namespace) -> str:
    """Where the server that was named answers for the model that was named."""
    version_path = "" if given.model_version is None else f"/versions/{given.model_version}"
    return f"{given.url.rstrip('/')}/predict/{urllib.parse.quote(given.model)}{version_path}"


@contextmanager
def post(address: str, content: bytes, kind: str, accept: str = "*/*") -> Iterator[HTTPResponse]:
    """Send a server `content` of the media type `kind`, and have its answer, of one that `accept` has.

    The key is the one of INFERD_API_KEY; INFERD_CA_FILE has the certificates that vouch for a server by https, if they
    are not those of the system.

    Raises:
        OSError: it can't be reached.
        ValueError: the address is none, or the answer an error, which the message has.
    """
    if not address.startswith(("http://", "https://")):
        raise ValueError("--url must begin with http:// or https://")
    headers = {"content-type": kind, "accept": accept}
    if key := os.environ.get("INFERD_API_KEY", "").strip():
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, content, headers)  # noqa: S310 - the scheme was checked
    trusted = _trusted() if address.startswith("https://") else None
    try:
        with urllib.request.urlopen(request, timeout=60, context=trusted) as response:  # noqa: S310 - as above
            yield response
    except urllib.error.HTTPError as error:
        message = f"{address.partition('?')[0]} answered {error.code}: {error.read().decode(errors='replace')}"
        raise ValueError(message) from error


def _trusted() -> ssl.SSLContext:
    file = os.environ.get("INFERD_CA_FILE") or None
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        raise ValueError(f"{file}: has no certificates (INFERD_CA_FILE)") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {file} (INFERD_CA_FILE)") from error
