"""Certificates that are made for a test, by the command `openssl`."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="the command openssl makes certificates")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_pair(folder: Path, name: str = "server") -> Pair:
    """Make a certificate for this machine that vouches for itself; the files are replaced at once."""
    made = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    new = Pair(folder / f"{name}.crt.new", folder / f"{name}.key.new")
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        *("-keyout", new.key, "-out", new.certificate),
    )
    new.certificate.replace(made.certificate)
    new.key.replace(made.key)
    return made


def encrypted(pair: Pair) -> Path:
    """Write the key of a pair once more, with a password."""
    path = pair.key.with_suffix(".encrypted")
    _openssl("pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", path)
    return path


def trusting(*certificates: Path, client: Pair | None = None) -> ssl.SSLContext:
    """How a client connects that trusts these, and has a certificate of its own if there is one."""
    context = ssl.create_default_context()
    for one in certificates:
        context.load_verify_locations(one)
    if client:
        context.load_cert_chain(client.certificate, client.key)
    return context
