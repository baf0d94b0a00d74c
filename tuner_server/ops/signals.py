"""The signals that tell a process to stop, or to read its settings again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable

STDIN = 0


def stop_signals(*, exits_with_stdin: bool) -> asyncio.Event:
    """An event of this loop that is set when the process is told to stop, or standard input closes if asked."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if exits_with_stdin:
        threading.Thread(target=_wait_for_end, args=(loop, stopping), daemon=True).start()
    return stopping


def ignore_hangup() -> None:
    """Has SIGHUP do nothing, in this process and in those that it starts: a terminal that closes ends no server."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def on_hangup(call: Callable[[], object]) -> None:
    """Calls it on this loop whenever SIGHUP comes."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, call)


def _wait_for_end(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Sets `stopping` when whoever started us closes our input, or dies."""
    # Not through `sys.stdin`: its lock, held by a reading thread, is fatal when the interpreter ends.
    with contextlib.suppress(OSError):
        while os.read(STDIN, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stopping.set)
