"""A run in the hands of its tuner, and the books that are kept of it."""

from __future__ import annotations

import abc
import logging
import math
import time
from typing import TYPE_CHECKING

from lrpilot.backends.base import Backend
from lrpilot.data.position import DataPosition
from lrpilot.distributed.backend import DistributedBackend
from lrpilot.distributed.session import SharedSession
from lrpilot.run.coasting import attempt
from lrpilot.run.ending import Ending
from lrpilot.run.lease import Lease
from lrpilot.run.repetition import Repetition
from lrpilot.run.rollback import Rollback
from lrpilot.run.run_plan import RunPlan
from lrpilot.run.run_record import RunRecord
from lrpilot.run.runners.announcer import Announcer
from lrpilot.run.tuned_lr import TunedLr
from lrpilot.session.run_state import RunState
from lrpilot.session.session import Session
from lrpilot.v1 import tuner_pb2 as pb

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

log = logging.getLogger("lrpilot")


class Runner(abc.ABC):
    """What all that is done to a run needs: its backend, its session, its lease, and the record of its steps."""

    _session: Session | SharedSession
    _lease: Lease

    def __init__(
        self,
        backend: Backend,
        ranks: Ranks | None,
        total_steps: int | None,
        total_time_s: float | None,
        *,
        strict: bool,
        adopt: bool,
    ) -> None:
        """Begins nothing yet: `DirectiveRunner` does, with the first directive of a session."""
        self._backend = backend if ranks is None else DistributedBackend(backend, ranks)
        self._ranks = ranks
        self._plan = RunPlan(total_steps, total_time_s)
        self._started = time.monotonic()
        self._strict = strict
        self._record = RunRecord(backend.base_lrs)
        self._lr = TunedLr(self._backend)
        self._validations: list[pb.Validation] = []
        self._position = DataPosition()
        self._finished = False
        self._repetition = Repetition()
        # The last report, then the answer to it, until what it asks for has begun.
        self._due: pb.Report | pb.Directive | None = None
        self._interrupted = False
        self._rollback = Rollback()
        self._announcer = Announcer()
        self._ending = Ending(self._backend, ranks, adopt=adopt)

    @property
    @abc.abstractmethod
    def rank(self) -> int:
        """The number of this process among those that train together; 0 if it trains alone."""

    @property
    @abc.abstractmethod
    def phase(self) -> str:
        """What the present steps are for."""

    @abc.abstractmethod
    def _on_begun(self, directive: pb.Directive) -> None:
        """A directive has begun."""

    @abc.abstractmethod
    def _on_decided(self, directive: pb.Directive) -> None:
        """Committed steps begin, for a new reason."""

    @abc.abstractmethod
    def _on_resumed(self) -> None:
        """The run goes on from a checkpoint, as the job that saved it."""

    @abc.abstractmethod
    def _on_reported(self, directive: pb.Directive, report: pb.Report, start: int) -> None:
        """Steps are over; so many had been made before them."""

    @abc.abstractmethod
    def _on_finished(self) -> None:
        """The run is over."""

    def _lease_of(self, directive: pb.Directive, done: int = 0) -> Lease:
        """A directive as this run carries it out, of which some steps may have been made."""
        return Lease(directive, done, steps_between_looks=self._backend.steps_between_looks)

    def _flushed_losses(self) -> list[float]:
        """Takes the losses since the last report off the backend.

        Those that an interrupt has lost are no numbers. One that came between a loss and its count leaves one too many.
        """
        losses, done = self._backend.flush(), self._lease.done
        if len(losses) != done:
            self._repetition.lose()
        return [math.nan] * (done - len(losses)) + losses[max(len(losses) - done, 0) :]

    def _lap(self) -> float:
        """Seconds since the last report; what comes between two directives is part of the time of the next one."""
        started, self._started = self._started, time.monotonic()
        return self._started - started

    def _finish(self) -> None:
        self._finished = True
        attempt(self._ending.conclude)
        attempt(self._backend.finish)
        log.info("lrpilot: done, %d steps committed and %d rolled back", self._record.committed, self._record.searched)
        self._on_finished()

    def _run_state(self) -> RunState:
        """Where the reported steps have led."""
        record = self._record
        # Several ranks would not agree on it to the step.
        in_time = None if self._ranks is not None else self._plan.steps_in_time(record.wall_time_s, record.steps)
        return RunState(
            lr=self._backend.base_lrs[0] if record.last_lr is None else record.last_lr,
            remaining=None,
            warm=record.committed > 0,
            held=self._rollback.possible,
            steps=record.steps,
            peak=record.peak_lr,
            in_time=in_time,
        ).planned(self._plan.total_steps)

    def _set_lr(self, lr: float) -> None:
        self._lr.set(lr, begun=self._record.steps > 0 or self._due is not None)
