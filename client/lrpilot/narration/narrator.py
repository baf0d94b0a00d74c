"""Tells a run's beginning, its decisions and its end in a line each, and between them how far it is."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Protocol

from lrpilot.narration.screen import Screen, other_bars
from lrpilot.wire.schedule_data import Validation
from lrpilot.wire.text.job_names import called

BAR_S = 0.5
"""Seconds between two bars: a person reads no faster, and a step that draws one takes some tens of microseconds."""
SHORT_ID = 8

log = logging.getLogger("lrpilot")


class NarratedRun(Protocol):
    """A run, as far as it is told."""

    @property
    def job_id(self) -> str:
        """The server's name of the job; empty as long as no server has it."""

    @property
    def lr(self) -> float:
        """The first group's LR, of the next step."""

    @property
    def mode(self) -> str:
        """Whether what `validate` gives is minimised, "min", or maximised, "max"."""

    @property
    def phase(self) -> str:
        """What the present steps are for: warm_up, range_test, probe, train or stop."""

    @property
    def searching(self) -> bool:
        """Whether the next step will be rolled back."""

    @property
    def committed_step(self) -> int:
        """Steps that are in the model."""

    @property
    def search_steps(self) -> int:
        """Steps that were, or will be, rolled back."""

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the run, search included; None: no end is known."""


class Narrator:
    """Tells one run. Its lines of decisions are left to the log where that shows them anyway."""

    def __init__(self, screen: Screen) -> None:
        """Tells it on `screen`."""
        self._screen = screen
        self._began = time.monotonic()
        self._begin_steps: int | None = None
        self._loss = self._first_loss = math.nan
        self.due = 0.0
        """When the next bar is due, on the monotonic clock."""

    def opened(self, run: NarratedRun, where: str, name: str, policy: str) -> None:
        """The job is open: at a server (`where`), under a policy."""
        if not run.job_id:
            return  # a warning has said it
        steps = "no end" if run.total_steps is None else f"{run.total_steps:,} steps"
        job, told = run.job_id[:SHORT_ID], called(name, run.job_id)
        self._screen.line(
            f"lrpilot: job {job} {told!r}, {where}: policy {policy}, {steps}; `lrpilot show {job}` tells more"
        )

    def resumed(self, run: NarratedRun, name: str) -> None:
        """The run goes on from a checkpoint, as another job than the one that was told as it was opened."""
        if not run.job_id:
            return
        job, told, steps = run.job_id[:SHORT_ID], called(name, run.job_id), f"{run.committed_step:,}"
        self._screen.line(
            f"lrpilot: goes on from its checkpoint as job {job} {told!r}, {steps} steps in the model; "
            f"`lrpilot show {job}` tells more, and not the job above"
        )

    def decided(self, run: NarratedRun, peak_lr: float, n_steps: int, reason: str) -> None:
        """So many committed steps begin, for a new reason; `peak_lr` is the highest LR of theirs."""
        if log.isEnabledFor(logging.INFO) and log.hasHandlers():
            return
        step = run.committed_step
        self._screen.line(f"lrpilot: step {step:,}: {n_steps:,} steps at LRs up to {peak_lr:.3g}: {reason}")

    def reported(self, losses: list[float]) -> None:
        """Steps are over, with such losses. The first of all is that of the untrained model, or nearly."""
        if math.isnan(self._first_loss):
            self._first_loss = next((loss for loss in losses if math.isfinite(loss)), math.nan)
        sound = [loss for loss in losses[-10:] if math.isfinite(loss)]
        if sound:
            self._loss = math.fsum(sound) / len(sound)

    def look(self, run: NarratedRun) -> None:
        """Draws the bar anew."""
        now = time.monotonic()
        self.due = now + BAR_S
        if other_bars():
            return
        done = run.committed_step + run.search_steps
        if self._begin_steps is None:
            self._begin_steps, self._began = done, now
        parts = [f"{run.phase.replace('_', ' ')} at LR {run.lr:.3g}"]
        if math.isfinite(self._loss):
            parts.append(f"loss {self._loss:.4g}")
        made, elapsed = done - self._begin_steps, now - self._began
        if made and elapsed > 0:
            parts.append(f"{made / elapsed:,.0f} steps/s" if made >= elapsed else f"{elapsed / made:,.1f} s a step")
        total = run.total_steps
        if total is None:
            head = f"{done:,} steps"
        else:
            head = f"{done / max(total, 1):4.0%} {done:,}/{total:,}"
            if made and total > done:
                parts.append(f"{_duration((total - done) * elapsed / made)} left")
        self._screen.bar(f"{head}  {', '.join(parts)}")

    def finished(self, run: NarratedRun, peak_lr: float, validations: Sequence[Validation], why: str = "done") -> None:
        """The run is over, or its tuning is.

        Args:
            run: the run.
            peak_lr: the highest LR of its committed steps.
            validations: of its committed steps, as the user gave them.
            why: a word for the end.
        """
        self._screen.bar("")
        kept, searched = run.committed_step, run.search_steps
        share = f" ({searched / (kept + searched):.1%})" if searched else ""
        ends = [f"LR up to {peak_lr:.3g}"] if kept else []
        if math.isfinite(self._loss):
            ends.append(f"loss {self._loss:.4g}, from {self._first_loss:.4g}")
        ends += _validated(validations, run.mode)
        took = _duration(time.monotonic() - self._began)
        steps = f"{kept:,} steps are in the model, {searched:,}{share} went into the search"
        self._screen.line(f"lrpilot: {why} after {took}: {'; '.join([steps, *ends])}")


def _validated(validations: Sequence[Validation], mode: str) -> list[str]:
    """What the last validation was, and the best one where that is another, in words; empty: there is none."""
    if not validations:
        return []
    values = [each.loss for each in validations]
    best, what = (max(values), "metric (higher is better)") if mode == "max" else (min(values), "loss")
    return [f"validation {what} {values[-1]:.4g}{'' if best == values[-1] else f', at best {best:.4g}'}"]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
