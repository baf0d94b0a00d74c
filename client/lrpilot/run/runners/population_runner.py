"""How the probes of a population are carried out: each rank tries one of its own, on the batches of rank 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from lrpilot.backends.base import Backend
from lrpilot.data.replay import BatchBuffer
from lrpilot.distributed.backend import DistributedBackend
from lrpilot.distributed.shared_batch import DrawnBatch, share_random_state, shared_batch
from lrpilot.errors import ConfigError, ProtocolError
from lrpilot.run.lease import Lease
from lrpilot.run.runners.plan_runner import PlanRunner
from lrpilot.run.runners.round import Round
from lrpilot.v1 import tuner_pb2 as pb

if TYPE_CHECKING:
    from lrpilot.distributed.ranks import Ranks

Batch = TypeVar("Batch")
Shared = TypeVar("Shared")


class PopulationRunner(PlanRunner):
    """Carries out directives, those of several probes at the same time too, where ranks may hold different weights.

    Between such probes, and in all other steps, ranks are as one.
    """

    def __init__(
        self,
        backend: Backend,
        ranks: Ranks | None,
        total_steps: int | None,
        total_time_s: float | None,
        *,
        strict: bool,
        adopt: bool,
        population: bool,
    ) -> None:
        """Begins nothing yet; `population`: whether ranks may try probes of their own."""
        super().__init__(backend, ranks, total_steps, total_time_s, strict=strict, adopt=adopt)
        self._members = ranks.size if population and ranks is not None else 1
        self._round: Round | None = None

    def _begin(self, directive: pb.Directive) -> None:
        before, self._round = self._round, Round(directive, self.rank) if directive.apart else None
        super()._begin(directive)
        if (self._round is None) != (before is None):
            self._repetition.forget()

    def _begin_steps(self, directive: pb.Directive) -> Lease:
        if self._round is None:
            return super()._begin_steps(directive)
        lease = self._lease_of(self._round.own)
        self._apart.begin_apart(lease.room, lease.limit)
        return lease

    def _advance(self, outcome: pb.Outcome.ValueType, change: pb.PlanChange | None = None, note: str = "") -> None:
        """Reports on the first probe of a round, and follows the answer: the others' turn, or what is next."""
        if self._round is None:
            super()._advance(outcome, change, note)
            return
        assert self._ranks is not None
        self._round.end(self._apart.flush_apart(self._lease.done))
        self._lr.look()
        if self._ranks.any(not self._repetition.comparable)[0]:  # Only rank 0 knows a loader that can't be replayed.
            self._repetition.lose()
        notes = (self._note([loss]) for loss in self._round.first_losses)
        report = self._round.report(self._round.directive)
        report.wall_time_s = self._lap()
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

    def _go_back(self, directive: pb.Directive) -> pb.Directive:
        followed = super()._go_back(directive)
        if self._round is not None and followed is not directive:
            # A rank could not go back, and its weights are not those of the others.
            self._apart.level()
        return followed

    def _coast(self, error: Exception) -> None:
        if self._round is not None:
            # As many on every rank, though some may have made fewer: nobody is waited for at the end of the run.
            self._lease.done = self._round.directive.n_steps
        super()._coast(error)
        self._round = None

    def _next_batch(self, buffer: BatchBuffer[Batch]) -> Batch:
        """The next batch of this rank, or of rank 0 for all.

        Raises:
            Exception: the loader fails on this rank.
            ConfigError: batches can't be shared, and nothing has begun.
            RuntimeError: another rank has gone, and with it the training.
        """
        if self._round is None or self._ranks is None:
            return buffer.draw()
        shared = self._shared(lambda ranks: self._begin_alike(ranks))
        drawn = DrawnBatch.of(buffer.draw) if shared and self.rank == 0 else None
        found = self._shared(lambda ranks: [shared_batch(ranks, drawn)]) if shared else None
        return found[0] if found else buffer.draw()

    def _begin_alike(self, ranks: Ranks) -> bool:
        """Has all members begin with the random state of rank 0, once a round.

        Not before the first draw: what the loop does between two probes is each rank's own.
        """
        assert self._round is not None
        if not self._round.begun:
            share_random_state(ranks)
            self._round.begun = True
        return True

    def _shared(self, act: Callable[[Ranks], Shared]) -> Shared | None:
        """What all ranks do together in a round; None: it has failed, and with it the tuning."""
        assert self._ranks is not None
        try:
            return act(self._ranks)
        except Exception as error:
            if self._ranks.lost or self._record.steps + self._lease.done == 0:
                raise
            self._coast(error)
            return None

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
