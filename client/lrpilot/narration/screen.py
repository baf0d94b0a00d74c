"""Where a run is told: standard error, where somebody reads it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from typing import TextIO

from lrpilot.wire.plain_text import plain

VARIABLE = "LRPILOT_PROGRESS"
"""Set to 0, it tells nothing; set to 1, it tells also where standard error is neither a terminal nor a notebook."""
WIDTH = 100
"""Columns of a notebook."""


class Screen:
    """Lines, and below them a bar that changes in its place. What can't be written is left out."""

    def __init__(self, stream: TextIO) -> None:
        """Writes to `stream`."""
        self._stream = stream
        self._bar = ""

    def line(self, text: str) -> None:
        """Writes a line; the bar goes below it."""
        bar, self._bar = self._bar, ""
        self._write(f"{_over(bar)}{plain(text)}\n{bar}")
        self._bar = bar

    def bar(self, text: str) -> None:
        """Puts a text in place of the bar; an empty one takes it away."""
        shown = plain(text)[: shutil.get_terminal_size((WIDTH, 24)).columns - 1]
        if shown != self._bar:
            self._write(f"{_over(self._bar)}{shown}")
            self._bar = shown

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, and a stream that is closed
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()


def _over(bar: str) -> str:
    """What goes back to the start of the line, and takes a bar away."""
    return f"\r{' ' * len(bar)}\r" if bar else ""


def screen(progress: bool | None) -> Screen | None:
    """The screen of this process; None: nobody watches, or nobody wants to be told.

    Args:
        progress: whether to tell; None: as the environment says (`VARIABLE`), else where standard error is a terminal,
            or a notebook's.
    """
    stream = sys.stderr
    if stream is None:
        return None
    if progress is None:
        told = os.environ.get(VARIABLE, "")
        progress = told.lower() not in ("0", "false", "no", "off") if told else _is_watched(stream)
    return Screen(stream) if progress else None


def _is_watched(stream: TextIO) -> bool:
    with contextlib.suppress(Exception):  # whatever stands in for standard error
        return stream.isatty() or type(stream).__module__.startswith("ipykernel")
    return False


def other_bars() -> bool:
    """Whether tqdm draws bars just now, which ours would be mixed up with."""
    tqdm = sys.modules.get("tqdm")
    return bool(getattr(getattr(tqdm, "tqdm", None), "_instances", ()))
