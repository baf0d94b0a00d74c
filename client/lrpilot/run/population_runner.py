"""How the probes of a population are carried out: each rank tries one of its own, on the batches of rank 0."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from lrpilot.backends.base import Backend
from lrpilot.data.replay import BatchBuffer
from lrpilot.distributed.backend import DistributedBackend
from lrpilot.distributed.shared_batch import share_random_state, shared_batch
from lrpilot.errors import ConfigError, ProtocolError
from lrpilot.run.directive_runner import DirectiveRunner
from lrpilot.run.lease import Lease
from lrpilot.run.round import Round
from lrpilot.v1 import tuner_pb2 as pb

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

Batch = TypeVar("Batch")


class PopulationRunner(DirectiveRunner):
    """Carries out directives, those of several probes at the same time too, where ranks may hold different weights.

    Between such probes, and in all other steps, ranks are as one.
    """

    def __init__(
        self, backend: Backend, ranks: Ranks | None, total_steps: int | None, *, strict: bool, population: bool
    ) -> None:
        """Begins nothing yet; `population`: whether probes are tried by each rank for itself."""
        super().__init__(backend, ranks, total_steps, strict=strict)
        self._members = ranks.size if population and ranks is not None else 1
        self._round: Round | None = None

    def _begin(self, directive: pb.Directive) -> None:
        before, self._round = self._round, None
        if self._members > 1 and directive.phase == pb.PHASE_PROBE:
            self._round = Round(directive, self.rank)
        super()._begin(directive)
        if (self._round is None) != (before is None):
            self._repetition.forget()

    def _begin_steps(self, directive: pb.Directive) -> Lease:
        if self._round is None:
            return super()._begin_steps(directive)
        lease = Lease(self._round.own)
        self._apart.begin_apart(lease.room, lease.limit)
        return lease

    def _advance(self, outcome: pb.Outcome.ValueType) -> None:
        """Reports on the first probe of a round, and follows the answer: the others' turn, or what is next."""
        if self._round is None:
            super()._advance(outcome)
            return
        self._round.end(self._apart.flush_apart(self._lease.done))
        self._lr.look()
        notes = (self._note([loss]) for loss in self._round.first_losses)
        report = self._round.report(self._round.directive)
        report.wall_time_s = time.monotonic() - self._started
        self._book(self._noted(report, next(filter(None, notes), "")), self._round.directive)
        self._proceed()

    def _proceed(self) -> None:
        while True:
            if isinstance(self._due, pb.Report):
                self._due = self._session.answer(self._lease.directive, self._due, self._run_state())
            if not (isinstance(self._due, pb.Directive) and self._due.taken_along):
                break
            if self._round is None:
                raise ProtocolError(f"server: its directive {self._due.number} was not told before", "INTERNAL")
            self._book(self._round.report(self._due), self._due)
        super()._proceed()

    def _coast(self, error: Exception) -> None:
        super()._coast(error)
        self._round = None

    def _next_batch(self, buffer: BatchBuffer[Batch]) -> Batch:
        """The next batch of this rank, or of rank 0 for all."""
        if self._round is None or self._ranks is None:
            return buffer.draw()
        try:
            if not self._round.begun:
                # Not before: what the loop does between two probes is each rank's own.
                share_random_state(self._ranks)
                self._round.begun = True
            return shared_batch(self._ranks, buffer.draw)
        except RuntimeError as error:
            if not self._ranks.parted:
                raise
            self._coast(error)
            return buffer.draw()

    def _check_data(self) -> None:
        """Raises: ConfigError: the loop draws batches by itself where all members have to have the same."""
        if self._round is not None and not self._position.known:
            raise ConfigError(
                "population: the loop draws its own batches, and members can be compared on the same ones alone; draw "
                "them from tuner.batches(loader), or leave out population=True"
            )

    @property
    def _apart(self) -> DistributedBackend:
        assert isinstance(self._backend, DistributedBackend)
        return self._backend
