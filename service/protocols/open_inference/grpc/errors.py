"""Errors to gRPC: one table from the error's class to a status, and what rides with it in the trailing metadata.

The classes' own ancestry is the policy: a class that is not in the table answers as its nearest ancestor that is.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from grpc import StatusCode

from service.errors import (
    BadInput,
    BundleRefused,
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    InferdError,
    NotFound,
    NotReady,
    Overloaded,
    RuntimeFailure,
    TooLarge,
    Unauthenticated,
    Unsupported,
)

Metadata: TypeAlias = tuple[tuple[str, str], ...]


class MessageTooLarge(TooLarge):
    """A message that gRPC would not send; one that it would not take never gets as far as here."""


# gRPC's own status for a message that is too large tells clients to try again. Other requests that have too much in
# them would have it the next time too: they are as wrong as any.
STATUS: dict[type[InferdError], StatusCode] = {
    BadInput: StatusCode.INVALID_ARGUMENT,
    MessageTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    Unsupported: StatusCode.UNIMPLEMENTED,
    Unauthenticated: StatusCode.UNAUTHENTICATED,
    Forbidden: StatusCode.PERMISSION_DENIED,
    NotFound: StatusCode.NOT_FOUND,
    BundleRefused: StatusCode.FAILED_PRECONDITION,
    NotReady: StatusCode.UNAVAILABLE,
    Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    Cancelled: StatusCode.CANCELLED,
    RuntimeFailure: StatusCode.INTERNAL,
    InferdError: StatusCode.INTERNAL,
}

UNEXPECTED = "an unexpected error; the server's log has it under this request's id"
"""What a client is told of a defect of ours."""

_MAX_DETAILS_BYTES = 2000
"""Of a status: they travel in a header, escaped threefold at worst, and clients take 8 KiB of headers."""


def status_of(error: InferdError) -> StatusCode:
    """The gRPC status for `error`."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def details_of(error: InferdError) -> str:
    """The text of `error`, cut to what a status can carry."""
    text = str(error).encode(errors="replace")
    if len(text) > _MAX_DETAILS_BYTES:
        text = text[:_MAX_DETAILS_BYTES] + b" ..."
    return text.decode(errors="ignore")


def trailers_of(error: InferdError) -> Metadata:
    """The trailing metadata that `error` adds: when to try again, as HTTP says it and as gRPC's own retries read it."""
    if isinstance(error, Overloaded):
        return (
            ("retry-after", str(max(1, math.ceil(error.retry_after_s)))),
            ("grpc-retry-pushback-ms", str(max(1, math.ceil(1000 * error.retry_after_s)))),
        )
    return ()
