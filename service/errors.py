"""Every error that inferd raises on purpose, as one small tree.

InferdError
├── BadInput                    the caller's request is wrong, and says how
│   ├── Invalid                 ... though well-formed: it asks of the model what can't be
│   ├── TooLarge                ... because it passes a limit, which the message names
│   ├── UnsupportedMediaType    ... because nothing here reads this kind of body or file
│   └── Unsupported             ... because this build or model has no such ability
├── Unauthenticated             the call needs a key, and none or a wrong one came
├── Forbidden                   the call is not allowed here, whoever makes it
├── NotFound                    no such model, version or route
├── NotReady                    the model is known but can't answer now (loading, refused, draining)
├── Overloaded                  the queue is full; try again after `retry_after_s`
│   └── LimitReached            ... or the caller's key has used what it may
├── DeadlineExceeded            the caller's deadline passed before the model ran
├── Cancelled                   the caller went away before the answer
├── RuntimeFailure              the model itself failed on a well-formed request
│   └── OutOfMemory             ... because it asked for more memory than the process may have
└── BundleRefused               a model folder that must not be served, with file and reason
    └── Quarantined             ... because loading it ended the process, or took too long

The tree knows no protocol: `service.protocols.errors` maps each class to a status and a body. `reason` is what
metrics and logs call an error of that class.
"""

from __future__ import annotations

from typing import ClassVar


class InferdError(Exception):
    """The root: its text is meant for the person who caused or has to mend it.

    Args:
        message: the text.
        parameter: which part of a request is at fault, where one is.
    """

    reason: ClassVar[str] = "runtime"

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class BadInput(InferdError):
    """The request is wrong; the message says what was wrong and what is allowed."""

    reason = "invalid"


class Invalid(BadInput):
    """The request is well-formed, but asks of this model what can't be; for dialects that tell that apart."""


class TooLarge(BadInput):
    """The request passes a limit; the message names the limit."""


class UnsupportedMediaType(BadInput):
    """The body, or a file in it, is of a kind that nothing here reads; the message says which are read."""


class Unsupported(BadInput):
    """The request is well-formed, but asks for what this build or model can't do."""


class Unauthenticated(InferdError):
    """The call needs a key; none came, or another one."""

    reason = "invalid"


class Forbidden(InferdError):
    """The call is closed here, whoever makes it; the message says what would open it."""

    reason = "invalid"


class NotFound(InferdError):
    """There is no such model or version."""

    reason = "not_found"


class NotReady(InferdError):
    """The model is known, but can't answer now."""

    reason = "not_ready"


class Overloaded(InferdError):
    """The queue is full.

    Args:
        message: what was full and what its limit is.
        retry_after_s: seconds after which a new try may succeed.
    """

    reason = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LimitReached(Overloaded):
    """The key has used what it may; the message has its name and its limit."""


class DeadlineExceeded(InferdError):
    """The caller's deadline passed, or would pass, before the model could answer; it did not run."""

    reason = "deadline"


class Cancelled(InferdError):
    """The caller went away; nobody reads the answer."""

    reason = "cancelled"


class RuntimeFailure(InferdError):
    """The model failed while it ran."""


class OutOfMemory(RuntimeFailure):
    """The model asked for more memory than the process may have, and did not get it."""


class BundleRefused(InferdError):
    """A model folder can't be served.

    Args:
        file: the file at fault, as a path inside the bundle folder.
        problem: what is wrong with it.
    """

    reason = "not_ready"

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class Quarantined(BundleRefused):
    """Loading the model folder has ended the process that did it, or took too long."""
