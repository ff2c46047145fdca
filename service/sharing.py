"""Memory that several processes see: a file without a name, whose descriptor is handed down to them."""

from __future__ import annotations

import os
import tempfile


def make_memory(size: int) -> int:
    """Make a file of so many bytes, all of them zero; its descriptor.

    Raises:
        OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("inferd")
    else:
        descriptor, path = tempfile.mkstemp(prefix="inferd-")
        os.unlink(path)
    os.truncate(descriptor, size)
    return descriptor
