"""Who may do what: the keys that are known, on every protocol, and what each has left of its limits."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import Forbidden, LimitReached, Unauthenticated
from service.metrics import KeyMetrics, Metrics
from service.security.keys import SCOPES, Key, Scope, digest_of, read_keys
from service.security.usage import Usage, slots_of
from service.security.watching import Watched
from service.settings import Settings

ADMIN_KEY = "INFERD_ADMIN_KEY"
"""What the key of this setting is called; those of the file can't be called so."""

_SCHEME = b"bearer "
_LONGEST = 256
"""Bytes of a key. Longer ones are none, and are not worth a hash."""
_BUSY_S = 1.0
"""When to try again where too many requests are in work: nobody knows when one ends."""

_CLOSED: Mapping[Scope, str] = {
    "predict": "predictions are closed",
    "metrics": "metrics are closed here (INFERD_METRICS_ACCESS=open opens them, INFERD_METRICS_PORT moves them)",
    "admin": "control is closed",
}


@dataclass(frozen=True, slots=True)
class _Known:
    """A key as it is looked up.

    Attributes:
        name: of the key.
        digest: of the key.
        scopes: all that it opens.
        expires: as `time.time` has it.
        slot: where its usage is.
        interval_s: between two requests that come evenly; 0 = there is no rate.
        burst: so many may come at once.
        concurrency: so many may be in work; 0 = any number.
        metrics: where its requests are counted.
    """

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    expires: float | None
    slot: int
    interval_s: float
    burst: int
    concurrency: int
    metrics: KeyMetrics


class Grant:
    """That a request may go on; it is given back at its end.

    Args:
        name: of its key; None where it needed none.
        usage: where it counts as in work, if it does.
        slot: of the key there.
    """

    __slots__ = ("_slot", "_usage", "name")

    def __init__(self, name: str | None, usage: Usage | None = None, slot: int = 0) -> None:
        self.name = name
        self._usage = usage
        self._slot = slot

    def __enter__(self) -> Grant:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """The request is answered."""
        if self._usage:
            self._usage.leave(self._slot)


_FREE = Grant(None)


class Access:
    """What opens what. Which keys there are is read again when their file changes.

    Args:
        file: of keys, if there is one.
        admin_key: one more, which opens everything.
        open: what needs no key.
        metrics: where requests of each key are counted.
        usage: of limits.

    Attributes:
        watched: the file; None where there is none.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no file of keys.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        admin_key: str | None = None,
        open: Collection[Scope] = (),
        metrics: Metrics,
        usage: Usage | None = None,
    ) -> None:
        self._file = file
        self._admin_key = admin_key
        self._open = frozenset(open)
        self._metrics = metrics
        self._usage = usage or Usage()
        self._keys: dict[bytes, _Known] = {}
        self.watched = Watched([file], self._read) if file else None
        self._read()

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics, usage: Usage | None = None) -> Access:
        """What `settings` say.

        Raises:
            OSError: the file of keys can't be read.
            ValueError: it is no file of keys, or the settings contradict each other.
        """
        return cls(
            file=settings.api_keys_file,
            admin_key=settings.admin_key.get_secret_value() if settings.admin_key else None,
            open=_open_by(settings),
            metrics=metrics,
            usage=usage,
        )

    def is_open(self, scope: Scope) -> bool:
        """Whether calls of this scope need no key."""
        return scope in self._open

    def admit(self, scope: Scope, secret: bytes | None) -> Grant:
        """Let a request in, which is in work until its grant is given back.

        Args:
            scope: that it needs.
            secret: the key that came with it.

        Raises:
            Forbidden: no key opens this, or not this one.
            Unauthenticated: no key came, or one that is not known or has expired.
            LimitReached: the key has used what it may.
        """
        if scope in self._open:
            return _FREE
        key = self._identify(scope, secret)
        usage = self._usage if key.concurrency else None
        if usage and usage.enter(key.slot) > key.concurrency:
            usage.leave(key.slot)
            key.metrics.limited.inc()
            raise LimitReached(
                f"the key {key.name!r} may have {key.concurrency} requests in work at a time", retry_after_s=_BUSY_S
            )
        if key.interval_s and (early_s := self._usage.take(key.slot, key.interval_s, key.burst, time.monotonic())):
            if usage:
                usage.leave(key.slot)
            key.metrics.limited.inc()
            raise LimitReached(
                f"the key {key.name!r} may make {1 / key.interval_s:g} requests a second, {key.burst} at once",
                retry_after_s=early_s,
            )
        key.metrics.admitted.inc()
        return Grant(key.name, usage, key.slot)

    def check(self, scope: Scope, secret: bytes | None) -> str | None:
        """Say whose key this is, and count nothing: for what stands open while requests come on it.

        Raises:
            Forbidden, Unauthenticated: see `admit`.
        """
        return None if scope in self._open else self._identify(scope, secret).name

    def _identify(self, scope: Scope, secret: bytes | None) -> _Known:
        if not secret or len(secret) > _LONGEST:
            self._refuse_closed(scope)
            if secret:
                raise Unauthenticated("this key is not known here")
            raise Unauthenticated(
                f"this call needs a key with the scope {scope}: Authorization: Bearer <key>, or x-api-key: <key>"
            )
        digest = digest_of(secret)
        key = self._keys.get(digest)
        # What is looked up is a digest, which a caller can't steer towards another; the time that a look-up takes tells
        # nothing of keys. That it is the same is said once more in a time that depends on nothing.
        if key is None or not hmac.compare_digest(key.digest, digest):
            self._refuse_closed(scope)
            raise Unauthenticated("this key is not known here")
        if key.expires is not None and key.expires <= time.time():
            raise Unauthenticated(f"the key {key.name!r} has expired")
        if scope not in key.scopes:
            self._refuse_closed(scope)
            has = ", ".join(one for one in SCOPES if one in key.scopes)
            raise Forbidden(f"the key {key.name!r} has the scope {has}; this call needs {scope}")
        return key

    def _refuse_closed(self, scope: Scope) -> None:
        if not any(scope in key.scopes for key in self._keys.values()):
            raise Forbidden(
                f"{_CLOSED[scope]}: the server has no key for it "
                f"({ADMIN_KEY}, or a key with the scope {scope} in INFERD_API_KEYS_FILE)"
            )

    def _read(self) -> None:
        """Read the file, and let in those of its keys from now on."""
        keys = read_keys(self._file) if self._file else ()
        before = {one.name for one in self._keys.values()}
        known = [self._known(key, slot) for key, slot in zip(keys, slots_of(key.digest for key in keys), strict=True)]
        if self._admin_key:
            known.append(self._known_admin(self._admin_key))
        self._keys = {one.digest: one for one in known}
        for name in before - {one.name for one in known}:
            self._metrics.forget_key(name)

    def _known(self, key: Key, slot: int) -> _Known:
        return _Known(
            name=key.name,
            digest=key.digest,
            scopes=_opened_by(key.scopes),
            expires=key.expires.timestamp() if key.expires else None,
            slot=slot,
            interval_s=1 / key.rate if key.rate else 0.0,
            burst=key.burst or max(1, int(key.rate or 0)),
            concurrency=key.concurrency or 0,
            metrics=self._metrics.bind_key(key.name),
        )

    def _known_admin(self, secret: str) -> _Known:
        return _Known(
            name=ADMIN_KEY,
            digest=digest_of(secret.encode()),
            scopes=frozenset(SCOPES),
            expires=None,
            slot=0,
            interval_s=0.0,
            burst=1,
            concurrency=0,
            metrics=self._metrics.bind_key(ADMIN_KEY),
        )


def presented(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    """The key that a request brings, by either header (or gRPC metadata); None if it brings none.

    `x-api-key` comes first, as `authorization` may be meant for somebody on the way.
    """
    if api_key:
        return api_key.strip() or None
    if authorization and authorization[: len(_SCHEME)].lower() == _SCHEME:
        return authorization[len(_SCHEME) :].strip() or None
    return None


def _opened_by(scopes: Sequence[Scope]) -> frozenset[Scope]:
    return frozenset(SCOPES if "admin" in scopes else scopes)


def _open_by(settings: Settings) -> set[Scope]:
    """What needs no key."""
    if settings.metrics_access == "key" and settings.metrics_port is not None:
        raise ValueError(
            "INFERD_METRICS_ACCESS=key is of /metrics beside everything else; the port of INFERD_METRICS_PORT asks for "
            "no key"
        )
    without = settings.api_keys_file is None
    usual: dict[Scope, bool] = {"predict": without, "metrics": without and _is_loopback(settings.host)}
    said: dict[Scope, str] = {"predict": settings.predict_access, "metrics": settings.metrics_access}
    return {scope for scope, how in said.items() if how == "open" or (how == "auto" and usual[scope])}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
