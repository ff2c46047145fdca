"""Who may do what: the admin key that guards control on every protocol."""

from __future__ import annotations

import hmac

from service.errors import Forbidden, Unauthenticated

_SCHEME = "bearer "


class AdminKey:
    """The key that opens control; without one it is closed.

    Args:
        key: from INFERD_ADMIN_KEY; None or empty = control is closed.
    """

    def __init__(self, key: str | None) -> None:
        self._key = (key or "").encode()

    def check(self, authorization: str | None) -> None:
        """Return if the caller may control the server.

        Args:
            authorization: the header (or gRPC metadata) of this name, `Bearer <key>`.

        Raises:
            Forbidden: the server has no admin key, so nobody may.
            Unauthenticated: no key came, or another one.
        """
        if not self._key:
            raise Forbidden("control is closed: the server has no admin key (INFERD_ADMIN_KEY)")
        given = authorization or ""
        if given[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("this call needs the admin key: Authorization: Bearer <key>")
        # Compared as bytes, and in a time that tells nothing of where they differ.
        if not hmac.compare_digest(given[len(_SCHEME) :].strip().encode(errors="surrogatepass"), self._key):
            raise Unauthenticated("the admin key is wrong")
