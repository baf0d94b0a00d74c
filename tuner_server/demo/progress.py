"""How the demo shows where it is: a live bar in a terminal, now and then a line anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich import progress as bars
from rich.console import Console

from tuner_server.demo.contestants import CONTESTANTS
from tuner_server.demo.messages import Progress

LINE_S = 10.0
"""Seconds between two lines of a log."""


class Display(Protocol):
    """Shows one contestant after the other."""

    def update(self, progress: Progress) -> None:
        """A run got on."""
        ...

    def finish(self, contestant: str) -> None:
        """A run is over."""
        ...


@contextlib.contextmanager
def display(console: Console, n_steps: int) -> Iterator[Display]:
    """What suits the console, for runs of `n_steps`."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        bars.TextColumn("{task.description:12}"),
        bars.BarColumn(bar_width=16),
        bars.TextColumn("{task.fields[text]}"),
    )
    with bars.Progress(*columns, console=console) as progress:
        yield Bars(progress, n_steps)


class Bars:
    """A bar for every contestant."""

    def __init__(self, progress: bars.Progress, n_steps: int) -> None:
        """Bars of `n_steps` each, all empty."""
        self._progress = progress
        self._n_steps = n_steps
        self._tasks = {name: progress.add_task(name, total=n_steps, text="waiting") for name in CONTESTANTS}

    def update(self, progress: Progress) -> None:
        """A run got on."""
        done = self._n_steps - progress.steps_left
        self._progress.update(self._tasks[progress.contestant], completed=done, text=describe(progress))

    def finish(self, contestant: str) -> None:
        """A run is over."""
        self._progress.update(self._tasks[contestant], completed=self._n_steps, text="done")


class Lines:
    """A line every `LINE_S` seconds."""

    def __init__(self, console: Console) -> None:
        """Nothing is printed yet."""
        self._console = console
        self._last = float("-inf")

    def update(self, progress: Progress) -> None:
        """A run got on."""
        now = time.monotonic()
        if now - self._last >= LINE_S:
            self._last = now
            self._print(f"{progress.contestant}: {describe(progress)}")

    def finish(self, contestant: str) -> None:
        """A run is over."""
        self._print(f"{contestant}: done")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def describe(progress: Progress) -> str:
    """A line that says stage, phase, LR, losses, and the steps that are left."""
    stage = f"stage {progress.stage} " if progress.stage >= 0 else ""
    tuning = f" (tuning images {progress.tuning_loss:.3f})" if progress.tuning_loss is not None else ""
    return f"{stage}{progress.phase} LR {progress.lr:.3g} loss {progress.loss:.3f}{tuning} {progress.steps_left} left"
