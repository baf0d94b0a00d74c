"""Where a run is told: standard error, where somebody reads it, or a display of a notebook."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, TextIO

from lrpilot.wire.text.plain_text import plain

VARIABLE = "LRPILOT_PROGRESS"
"""Set to 0, it tells nothing; set to 1, it tells also where standard error is neither a terminal nor a notebook."""
WIDTH = 100
"""Columns of a notebook."""


class Screen(abc.ABC):
    """Lines, and below them a bar that changes in its place. What can't be written is left out."""

    @abc.abstractmethod
    def line(self, text: str) -> None:
        """Writes a line; the bar goes below it."""

    @abc.abstractmethod
    def bar(self, text: str) -> None:
        """Puts a text in place of the bar; an empty one takes it away."""


class Terminal(Screen):
    """A terminal, or a file that looks like one.

    As long as the bar is there, whatever else the process writes onto the terminal takes it away first, be it a log
    line, a `print` or a traceback: it would stand at the bar's end otherwise. The next bar is drawn below it.
    """

    def __init__(self, stream: TextIO) -> None:
        """Writes to `stream`."""
        self._stream = stream
        self._bar = ""
        self._watched: list[_Watch] = []

    def line(self, text: str) -> None:
        """Writes a line; the bar goes below it."""
        bar = self._bar
        self._take_away()
        self._write(f"{plain(text)}\n")
        self._draw(bar)

    def bar(self, text: str) -> None:
        """Puts a text in place of the bar; an empty one takes it away. A terminal that can't go back gets none."""
        shown = plain(text)[: shutil.get_terminal_size((WIDTH, 24)).columns - 1]
        if shown != self._bar and os.environ.get("TERM") != "dumb":
            self._take_away()
            self._draw(shown)

    def _draw(self, bar: str) -> None:
        if not bar:
            return
        self._write(bar)
        self._bar = bar
        for stream in {id(each): each for each in (self._stream, sys.stdout, sys.stderr)}.values():
            with contextlib.suppress(Exception):  # whatever stands in for a stream: it may have no such attribute
                if stream is self._stream or stream.isatty():
                    self._watched.append(_Watch(stream, self._take_away))

    def _take_away(self) -> None:
        bar, self._bar = self._bar, ""
        watched, self._watched = self._watched, []
        for watch in watched:
            watch.end()
        if bar:
            self._write(f"\r{' ' * len(bar)}\r")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, and a stream that is closed
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()


class _Watch:
    """Has something done before the next text is written to a stream, whoever writes it."""

    def __init__(self, stream: Any, act: Callable[[], None]) -> None:
        """Begins, by a `write` of the stream's own. Raises: Exception: the stream takes none."""
        self._stream, self._former = stream, vars(stream).get("write")
        write = stream.write

        def act_and_write(text: str) -> Any:
            act()
            return write(text)

        stream.write = self._own = act_and_write

    def end(self) -> None:
        """Gives the stream back its `write`, unless somebody else has put another one there since."""
        if vars(self._stream).get("write") is not self._own:
            return
        if self._former is None:
            del self._stream.write
        else:
            self._stream.write = self._former


class Notebook(Screen):
    """One display of the cell that runs, which changes in its place; the next cell has another one."""

    def __init__(self, shell: Any, display: Any) -> None:
        """Shows it in the cells of an IPython shell, by the module `IPython.display`."""
        self._shell, self._display = shell, display
        self._cell: object = None
        self._lines: list[str] = []
        self._bar = ""

    def line(self, text: str) -> None:
        """Adds a line."""
        self._show([plain(text)], self._bar)

    def bar(self, text: str) -> None:
        """Puts a text in place of the bar; an empty one takes it away."""
        if plain(text) != self._bar:
            self._show([], plain(text))

    def _show(self, lines: list[str], bar: str) -> None:
        with contextlib.suppress(Exception):  # whatever a front end makes of it: a run goes on without being told
            cell = self._shell.execution_count
            anew, self._cell = cell != self._cell, cell
            self._lines, self._bar = lines if anew else [*self._lines, *lines], bar
            told = {"text/plain": "\n".join(filter(None, [*self._lines, bar]))}
            show = self._display.display if anew else self._display.update_display
            show(told, raw=True, display_id=f"lrpilot-{id(self)}-{cell}")


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
    if not progress:
        return None
    return (_notebook() if _is_notebook(stream) else None) or Terminal(stream)


def _is_watched(stream: TextIO) -> bool:
    with contextlib.suppress(Exception):  # whatever stands in for standard error
        return _is_notebook(stream) or stream.isatty()
    return False


def _is_notebook(stream: TextIO) -> bool:
    return type(stream).__module__.startswith("ipykernel")


def _notebook() -> Notebook | None:
    """The notebook that this process runs the cells of; None: none is known."""
    ipython, display = sys.modules.get("IPython"), sys.modules.get("IPython.display")
    shell = None if ipython is None else ipython.get_ipython()
    return None if shell is None or display is None else Notebook(shell, display)


def other_bars() -> bool:
    """Whether tqdm draws bars just now, which ours would be mixed up with."""
    tqdm = sys.modules.get("tqdm")
    return bool(getattr(getattr(tqdm, "tqdm", None), "_instances", ()))
