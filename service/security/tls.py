"""TLS: certificate, key and who may connect, read from files and read again when they change.

A connection keeps what it began with; the next one has what is there by then. Nothing is put to use before all of it
was found to fit together.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.security.watching import Watched
from service.settings import Settings


@dataclass(frozen=True)
class Pem:
    """What was in the files.

    Attributes:
        key: the private key.
        chain: the certificate, and those that vouch for it.
        client_ca: those that vouch for clients; None = clients need no certificate.
    """

    key: bytes
    chain: bytes
    client_ca: bytes | None


class Tls:
    """The TLS of a server.

    Args:
        certificate: file with the certificate and those that vouch for it, PEM.
        key: file of its private key, PEM, not encrypted.
        client_ca: file with certificates that vouch for clients, which then need one; None = they need none.

    Attributes:
        context: for asyncio's servers; each new connection has what was read last.
        pem: what was read last. It is another object each time.
        watched: the files.

    Raises:
        OSError: one can't be read.
        ValueError: one is not what it should be; the message names it.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self.watched = Watched([one for one in (certificate, key, client_ca) if one], self._read)
        self.context = _Current(ssl.PROTOCOL_TLS_SERVER)
        self._read()

    @classmethod
    def of(cls, settings: Settings) -> Tls | None:
        """What `settings` say; None = connections are not encrypted.

        Raises:
            OSError: a file can't be read.
            ValueError: it is not what it should be, or the settings say only half of it.
        """
        certificate, key, client_ca = settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
        if certificate and key:
            return cls(certificate, key, client_ca)
        if certificate or key or client_ca:
            raise ValueError("TLS needs both INFERD_TLS_CERT_FILE and INFERD_TLS_KEY_FILE")
        return None

    @property
    def asks_clients(self) -> bool:
        """Whether clients need a certificate."""
        return self._client_ca is not None

    def _read(self) -> None:
        pem = Pem(
            key=self._key.read_bytes(),
            chain=self._certificate.read_bytes(),
            client_ca=self._client_ca.read_bytes() if self._client_ca else None,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load_pair(context)
        if self._client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._client_ca)
            except ssl.SSLError as error:
                raise ValueError(f"{self._client_ca}: has no certificates (INFERD_TLS_CLIENT_CA_FILE)") from error
        self.context.current, self.pem = context, pem

    def _load_pair(self, context: ssl.SSLContext) -> None:
        def password() -> str:
            raise ValueError(f"{self._key}: the key is encrypted; it must not be (INFERD_TLS_KEY_FILE)")

        try:
            ssl.create_default_context(cafile=self._certificate)
        except ssl.SSLError as error:
            raise ValueError(f"{self._certificate}: has no certificate (INFERD_TLS_CERT_FILE)") from error
        try:
            context.load_cert_chain(self._certificate, self._key, password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"{self._key}: is not the key of the certificate in {self._certificate}") from error
            reason = error.reason or "it is no PEM"
            raise ValueError(
                f"{self._key}: has no private key for {self._certificate} (INFERD_TLS_KEY_FILE): {reason}"
            ) from error


class _Current(ssl.SSLContext):
    """A context that has each connection begin with what is current then.

    One that is in use could take another certificate, but would never let go of an authority that vouched for clients.

    Attributes:
        current: what is.
    """

    current: ssl.SSLContext

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext.wrap_bio`, by which event loops begin a connection."""
        return self.current.wrap_bio(*args, **options)
