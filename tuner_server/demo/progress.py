"""How the demo shows where it is: a live bar in a terminal, now and then a line anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich import progress as bars
from rich.console import Console

from tuner_server.demo.messages import Progress, Result

LINE_S = 10.0
"""Seconds between two lines of a log."""
TELLING_SHARE = 0.02
"""The share of all steps from which on their pace says how long the rest takes: the first ones wait for processes."""


class Display(Protocol):
    """Shows runs, of several seeds at a time."""

    def update(self, progress: Progress) -> None:
        """A run got on."""
        ...

    def finish(self, result: Result) -> None:
        """A run is over."""
        ...


@contextlib.contextmanager
def display(console: Console, n_steps: int, n_runs: int) -> Iterator[Display]:
    """What suits the console, for so many runs of `n_steps`."""
    if not console.is_terminal:
        yield Lines(console, n_steps, n_runs)
        return
    columns = (
        bars.TextColumn("{task.description:24}"),
        bars.BarColumn(bar_width=16),
        bars.TextColumn("{task.fields[text]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console) as progress:
        yield Bars(progress, n_steps, n_runs)


class Bars:
    """A bar over everything, and one for each run that is under way."""

    def __init__(self, progress: bars.Progress, n_steps: int, n_runs: int) -> None:
        """Begins with one bar, which is empty."""
        self._progress = progress
        self._n_steps = n_steps
        self._all = progress.add_task("all runs", total=n_steps * n_runs, text="")
        self._tasks: dict[tuple[str, int], bars.TaskID] = {}
        self._done: dict[tuple[str, int], int] = {}

    def update(self, progress: Progress) -> None:
        """A run got on."""
        run = progress.contestant, progress.seed
        if run not in self._tasks:
            name = f"{progress.contestant}, seed {progress.seed}"
            self._tasks[run] = self._progress.add_task(name, total=self._n_steps, text="")
        self._move(run, self._n_steps - progress.steps_left, describe(progress))

    def finish(self, result: Result) -> None:
        """A run is over."""
        run = result.contestant, result.seed
        if run in self._tasks:
            self._move(run, self._n_steps, f"validation loss {result.validation_loss:.4f}")
        self._done[run] = self._n_steps

    def _move(self, run: tuple[str, int], done: int, text: str) -> None:
        self._done[run] = done
        self._progress.update(self._tasks[run], completed=done, text=text)
        self._progress.update(self._all, completed=sum(self._done.values()))


class Lines:
    """A line every `LINE_S` seconds."""

    def __init__(self, console: Console, n_steps: int, n_runs: int) -> None:
        """Nothing is printed yet."""
        self._console = console
        self._n_steps, self._n_runs = n_steps, n_runs
        self._began = self._last = time.monotonic()
        self._done: dict[tuple[str, int], int] = {}

    def update(self, progress: Progress) -> None:
        """A run got on."""
        self._done[progress.contestant, progress.seed] = self._n_steps - progress.steps_left
        now = time.monotonic()
        if now - self._last >= LINE_S:
            self._last = now
            self._print(f"{progress.contestant}, seed {progress.seed}: {describe(progress)}; {self._left(now)}")

    def finish(self, result: Result) -> None:
        """A run is over."""
        self._done[result.contestant, result.seed] = self._n_steps
        self._print(f"{result.contestant}, seed {result.seed}: validation loss {result.validation_loss:.4f}")

    def _left(self, now: float) -> str:
        """How long all the rest takes, at the pace so far."""
        done = sum(self._done.values())
        share = done / (self._n_steps * self._n_runs)
        if share < TELLING_SHARE:
            return "the time that is left shows later"
        return f"some {(now - self._began) * (1 / share - 1):.0f} s left in all"

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def describe(progress: Progress) -> str:
    """A line that says stage, phase, LR and losses, and the steps that are left."""
    stage = f"stage {progress.stage} " if progress.stage > 0 else ""
    tuning = f" (tuning images {progress.tuning_loss:.3f})" if progress.tuning_loss is not None else ""
    return f"{stage}{progress.phase} LR {progress.lr:.3g} loss {progress.loss:.3f}{tuning} {progress.steps_left} left"
