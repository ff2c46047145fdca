from __future__ import annotations

import pytest
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
    UnsupportedMediaType,
)
from service.protocols.open_inference.grpc.errors import MessageTooLarge, details_of, status_of, trailers_of


class Stranger(NotReady):
    pass


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadInput("x"), StatusCode.INVALID_ARGUMENT),
        (TooLarge("x"), StatusCode.INVALID_ARGUMENT),
        (UnsupportedMediaType("x"), StatusCode.INVALID_ARGUMENT),
        (MessageTooLarge("x"), StatusCode.RESOURCE_EXHAUSTED),
        (Unsupported("x"), StatusCode.UNIMPLEMENTED),
        (Unauthenticated("x"), StatusCode.UNAUTHENTICATED),
        (Forbidden("x"), StatusCode.PERMISSION_DENIED),
        (NotFound("x"), StatusCode.NOT_FOUND),
        (BundleRefused("model.onnx", "x"), StatusCode.FAILED_PRECONDITION),
        (NotReady("x"), StatusCode.UNAVAILABLE),
        (Overloaded("x", retry_after_s=1), StatusCode.RESOURCE_EXHAUSTED),
        (DeadlineExceeded("x"), StatusCode.DEADLINE_EXCEEDED),
        (Cancelled("x"), StatusCode.CANCELLED),
        (RuntimeFailure("x"), StatusCode.INTERNAL),
        (InferdError("x"), StatusCode.INTERNAL),
        (Stranger("x"), StatusCode.UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_each_error_has_a_status(error: InferdError, status: StatusCode) -> None:
    assert status_of(error) is status


def test_an_overload_says_when_to_try_again() -> None:
    assert trailers_of(Overloaded("full", retry_after_s=1.2)) == (
        ("retry-after", "2"),
        ("grpc-retry-pushback-ms", "1200"),
    )
    assert trailers_of(Overloaded("full", retry_after_s=0)) == (("retry-after", "1"), ("grpc-retry-pushback-ms", "1"))
    assert trailers_of(NotFound("x")) == ()


def test_details_are_the_errors_text_as_long_as_a_header_may_be() -> None:
    assert details_of(NotFound("there is no m\u00f6del")) == "there is no m\u00f6del"
    for text in ("x" * 10_000, "\u20ac" * 10_000, "\U0001f600" * 10_000):
        details = details_of(NotFound(text))
        assert details.endswith(" ...")
        assert text.startswith(details.removesuffix(" ..."))
        assert 1990 < len(details.encode()) < 2010
    assert details_of(NotFound("half \ud800 a pair")) == "half ? a pair"
