"""Files that users name, read whole: they end, and in time, or they are refused."""

from __future__ import annotations

import errno
import os
import select
import stat
import time

SMALL_BYTES = 2**20
"""The most of a file of settings, a token or certificates: a bundle of all public authorities has a quarter of it."""
PATIENCE_S = 10.0
"""How long a pipe may take to its end."""
_AT_ONCE = 2**16


def read_whole(path: str | os.PathLike[str], most_bytes: int, patience_s: float = PATIENCE_S) -> bytes:
    """The content of a file, or of a pipe that is written to its end within `patience_s`.

    Raises: OSError: it can't be read, has more bytes, or does not end in time.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_size > most_bytes:
            raise _too_large(most_bytes)
        deadline_s = None if stat.S_ISREG(status.st_mode) else time.monotonic() + patience_s
        content = bytearray()
        while part := _next_part(descriptor, deadline_s, patience_s):
            content += part
            if len(content) > most_bytes:
                raise _too_large(most_bytes)
        return bytes(content)
    finally:
        os.close(descriptor)


def _next_part(descriptor: int, deadline_s: float | None, patience_s: float) -> bytes:
    """Some more of a file; nothing at its end. Without a deadline it is all there."""
    if deadline_s is not None:
        poll, left_s = select.poll(), deadline_s - time.monotonic()
        poll.register(descriptor, select.POLLIN)
        if left_s <= 0 or not poll.poll(1000 * left_s):
            raise OSError(errno.ETIMEDOUT, f"it did not end within {patience_s:g} s")
    return os.read(descriptor, _AT_ONCE)


def _too_large(most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {most_bytes} bytes")
