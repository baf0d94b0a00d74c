"""Writes log lines from a thread of its own, so that nobody waits for whoever reads them."""

from __future__ import annotations

import io
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from tuner_server.base import streams

MAX_WAITING = 4 * 2**20
"""Bytes of lines that may wait for their reader; further ones are dropped, and counted."""
GATHER_S = 0.05
"""Seconds in which lines gather that are written together."""
CLOSE_S = 1.0
"""Seconds that waiting lines get at the end of the process."""
IDLE_S = 10.0
"""Seconds between two calls of what is to be called now and then."""


class LogWriter:
    """Takes lines from any thread at once, and writes them to a descriptor one after the other.

    A reader that stops costs lines, and nothing else: not a call, and not the end of the process.
    """

    def __init__(self, number: int, lost: Callable[[int], str], now_and_then: Callable[[], None]) -> None:
        """Starts the thread.

        Args:
            number: the descriptor.
            lost: gives the line that says how many were dropped, for when lines can be written again.
            now_and_then: is called in the thread every IDLE_S; it may write lines.
        """
        self._number, self._lost, self._now_and_then = number, lost, now_and_then
        self._lines: deque[tuple[bytes, int]] = deque()
        """What waits, and how many lines are lost if it is."""
        self._waiting = 0
        """Bytes that have not been written."""
        self._dropped = 0
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Takes a line, with its end."""
        data = text.encode(errors="backslashreplace")
        with self._changed:
            if self._waiting + len(data) > MAX_WAITING:
                self._dropped += 1
                return
            waits = not self._lines
            self._tell_dropped()
            self._append(data, 1)
            if waits:
                self._changed.notify()

    def close(self) -> None:
        """Writes what waits, for CLOSE_S at most, and ends the thread."""
        with self._changed:
            self._closing_at = time.monotonic() + CLOSE_S
            self._changed.notify()
        # A little longer than it should take: a thread that hangs in a call of the system is left behind.
        self._thread.join(2 * CLOSE_S)

    def _append(self, data: bytes, lines: int) -> None:
        self._lines.append((data, lines))
        self._waiting += len(data)

    def _tell_dropped(self) -> None:
        """Puts the line about those that were dropped where they would have been."""
        if self._dropped:
            self._append(self._lost(self._dropped).encode(errors="backslashreplace"), self._dropped)
            self._dropped = 0

    def _run(self) -> None:
        due_s = time.monotonic() + IDLE_S
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._lines or self._closing_at is not None, max(0.0, due_s - time.monotonic())
                )
                ends = self._closing_at is not None
            if not ends:
                time.sleep(GATHER_S)
            self._write_all()
            if ends:
                return
            if time.monotonic() >= due_s:
                self._now_and_then()
                with self._changed:
                    self._tell_dropped()
                due_s = time.monotonic() + IDLE_S

    def _write_all(self) -> None:
        while True:
            data, lines = self._gathered()
            if not data:
                return
            rest = data
            try:
                while rest and not self._out_of_time():
                    rest = streams.write(self._number, rest, self._closing_at or time.monotonic() + CLOSE_S)
            except OSError:  # a full disk, or a reader that is gone
                with self._changed:
                    self._dropped += lines
            with self._changed:
                self._waiting -= len(data)

    def _gathered(self) -> tuple[bytes, int]:
        """Whole lines that a pipe takes in one piece, unmixed with another process's; or a single longer one."""
        data, lines = b"", 0
        with self._changed:
            while self._lines and (not data or len(data) + len(self._lines[0][0]) <= select.PIPE_BUF):
                more, n = self._lines.popleft()
                data, lines = data + more, lines + n
        return data, lines

    def _out_of_time(self) -> bool:
        return self._closing_at is not None and time.monotonic() >= self._closing_at


class LogStream(io.TextIOBase):
    """A standard error that hands on what is printed, so that libraries, warnings and tracebacks block nobody."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._begun = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor, for those who need one."""
        return streams.STDERR

    def write(self, text: str) -> int:
        """Takes text; whole lines are handed on, so that those of two threads don't mix."""
        with self._lock:
            whole, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                self._writer.write(whole + end)
        return len(text)
