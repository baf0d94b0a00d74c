"""Who wants to know what happens, and what they see of a run."""

from __future__ import annotations

from typing import Protocol

from lrpilot.schedule.notebook import ShownRun
from lrpilot.v1 import tuner_pb2 as pb


class TunedRun(ShownRun, Protocol):
    """A run under the tuner, as observers see it."""

    @property
    def rank(self) -> int:
        """The number of this process among those that train together; 0 if it trains alone."""

    @property
    def lr(self) -> float:
        """The first group's LR, of the next step."""

    @property
    def phase(self) -> str:
        """What the present steps are for: warm_up, range_test, probe, train or stop."""

    @property
    def stage(self) -> int:
        """The stage, from 1; 0 before the first, and without a server."""

    @property
    def mode(self) -> str:
        """Whether what `validate` gives is minimised, "min", or maximised, "max"."""

    @property
    def searching(self) -> bool:
        """Whether the next step will be rolled back."""

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""

    def decisions(self) -> list[pb.Decision]:
        """What the server decided so far, with the candidates' forecasts; costs a call."""


class Observer:
    """Is told what happens, between steps; for loggers. What it raises is logged, and harms nothing."""

    def began(self, run: TunedRun, directive: pb.Directive) -> None:
        """A directive begins; its first step comes next."""

    def reported(self, run: TunedRun, directive: pb.Directive, report: pb.Report, start: int) -> None:
        """Steps are over: so many committed, or search, steps had been run before them (`start`)."""

    def finished(self, run: TunedRun) -> None:
        """The run is over."""
