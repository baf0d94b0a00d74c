"""Who wants to know what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrpilot.v1 import tuner_pb2 as pb

if TYPE_CHECKING:
    from lrpilot.driver import Driver


class Observer:
    """Is told what happens, between steps; for loggers. What it raises is logged, and harms nothing."""

    def began(self, driver: Driver, directive: pb.Directive) -> None:
        """A directive begins; its first step comes next."""

    def reported(self, driver: Driver, directive: pb.Directive, report: pb.Report, start: int) -> None:
        """Steps are over: so many committed, or search, steps had been run before them (`start`)."""

    def finished(self, driver: Driver) -> None:
        """The run is over."""
