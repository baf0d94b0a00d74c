"""The standard streams of a process, whatever its launcher made of them: closed, full, or read by nobody."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import time

from lrpilot.wire.text.plain_text import plain

STDIN, STDOUT, STDERR = 0, 1, 2
_closed: set[int] = set()
"""Those that were closed when the process began."""
SAY_S = 1.0
"""Seconds that a line may take whose reader has stopped reading."""


def make_usable() -> None:
    """Has the three descriptors open, and the text streams take every character.

    The next file or socket would get the number of one that is closed, and whatever is printed would go there. And a
    name may have characters that a latin-1 terminal lacks: it shows a question mark.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            _closed.add(number)
            opened = os.open(os.devnull, os.O_RDONLY if number == STDIN else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    # Python has no object for a stream that was closed when it started; `print` and `warnings` expect one.
    sys.stdout = sys.stdout or os.fdopen(STDOUT, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(STDERR, "w", encoding="utf-8", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # a file became a pipe, which a fork before us may have done
                stream.reconfigure(errors="replace")


def raise_if_closed(number: int) -> None:
    """Raises: OSError: the descriptor was closed when the process began, so that what is written to it is lost."""
    if number in _closed:
        raise OSError(errno.EBADF, "it is closed")


def write_no_more() -> None:
    """Drops what is left in the buffer of standard output, which would fail again at the end of the interpreter."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(number: int, line: bytes) -> None:
    """Writes a line to a descriptor, if that can be done within SAY_S; a stream that is full is nobody's end."""
    with contextlib.suppress(OSError):
        write(number, line + b"\n", time.monotonic() + SAY_S)


def complain(line: str) -> None:
    """Says a line on standard error, whatever that is just now, and whatever is in the line."""
    line = plain(line)
    try:
        number = sys.stderr.fileno()
    except (OSError, ValueError):  # a test's, or an application's, in memory
        print(line, file=sys.stderr)
    else:
        say(number, line.encode(sys.stderr.encoding, errors="replace"))


def write(number: int, data: bytes, deadline: float) -> bytes:
    """Writes to a descriptor until a time on the monotonic clock.

    Returns:
        What could not be written, because its reader does not read.

    Raises:
        OSError: it can't be written, as on a full disk.
    """
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    while data:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            break
        # No more than a pipe takes at once where it says that it takes something: a longer write would block.
        data = data[os.write(number, data[: select.PIPE_BUF]) :]
    return data
