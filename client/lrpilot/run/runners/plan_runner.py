"""How a run goes on in another plan: at once, or when the search is over, and with the server or without it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

from lrpilot.errors import ConfigError
from lrpilot.run.coasting import Coasting
from lrpilot.run.lease import Lease
from lrpilot.run.run_plan import Waiting
from lrpilot.run.runners.directive_runner import DirectiveRunner
from lrpilot.session.annealing import lr_of_rest
from lrpilot.v1 import tuner_pb2 as pb

log = logging.getLogger("lrpilot")


PATIENCE_S = 10.0
"""How long a rank that asks for a change of the plan waits for the others to ask for it too."""


class PlanRunner(DirectiveRunner):
    """Carries out directives of a run whose plan may change between two of them."""

    _holds = False

    def hold_changes(self) -> None:
        """Has changes of the plan wait for `make_changes`: for frameworks that own the training loop.

        In their hooks a step may be half done. After the end of the run nothing waits.
        """
        self._holds = True

    def make_changes(self) -> None:
        """Makes the changes of the plan that wait, unless a search is open. Call it after `step`.

        Raises:
            ServerError: a decision can't be had, and `strict` is set.
        """
        ranks = self._ranks
        if ranks is not None and self._plan.has_put_off and self._is_training and not ranks.calls:
            if ranks.all_come("change", PATIENCE_S):
                self._plan.agree()
            else:
                ranks.calls = True
                log.warning(
                    "lrpilot: a change of the plan is not asked for on all ranks: it waits until they look at one "
                    "another, and is made on all if rank 0 asks for it; call it on every rank, after the same step"
                )
        self._change_all()

    def _change(self, change: pb.PlanChange, *, scales_betas: bool = False) -> None:
        """Changes the plan: at once after committed steps and after the end, else when the search is over.

        Where changes are held, they wait in committed steps too. Of several ranks, what some ask for alone waits until
        they meet, and what they ask for in a search is compared then.

        Args:
            change: what is asked for.
            scales_betas: whether Adam's betas follow the batch size with it.

        Raises:
            ServerError: a decision can't be had, and `strict` is set.
        """
        self._catch_up()
        self._plan.wait(Waiting(change, scales_betas))
        self._compare_changes()
        if self._finished or (self._is_training and not self._holds):
            self.make_changes()

    def _compare_changes(self) -> None:
        """Puts the changes that wait off where there are several ranks: none may make them before the others do."""
        if self._ranks is not None and not self._ranks.parted and not self._finished:
            self._plan.put_off()
            self._ranks.calls |= self._plan.has_put_off and not self._is_training

    def _change_all(self) -> None:
        while self._plan.waits and (self._finished or self._lease.committed):
            self._guarded(self._change_waiting)

    @property
    def _is_training(self) -> bool:
        """Whether committed steps are being made."""
        return not self._finished and self._lease.committed

    def _on_met(self) -> None:
        """Has all ranks make the changes that rank 0 asks for, where one was put off."""
        ranks = self._ranks
        if ranks is None or not ranks.called or ranks.parted:
            return
        ranks.calls = ranks.called = False
        own = self._plan.take_put_off()
        asked = _unpacked(ranks.broadcast(_packed(own)))
        if own and own != asked:
            log.warning(
                "lrpilot: a change of the plan was asked for on rank %d and not on rank 0, and is left out: call it on "
                "every rank, after the same step",
                ranks.rank,
            )
        for waiting in asked:
            self._plan.wait(waiting)

    def _handle(self, lease: Lease) -> None:
        super()._handle(lease)
        if self._ranks is not None and not self._holds:
            self._change_all()

    def _proceed(self) -> None:
        super()._proceed()
        if self._finished or self._lease.committed:
            self._change_waiting()

    def _coast(self, error: Exception) -> None:
        self._plan.agree()  # nobody hears of the others any more: what is asked for here may be everybody's
        while (waiting := self._plan.waiting()) is not None:
            self._scale_betas(waiting)
            self._plan.change(waiting.change, self._record.steps + self._lease.done)
            self._record.replan(waiting.change, self._plan.total_steps)
        super()._coast(error)

    def _change_waiting(self) -> None:
        waiting = self._plan.waiting()
        if waiting is not None:
            self._scale_betas(waiting)
            self._change_now(waiting.change)

    def _scale_betas(self, waiting: Waiting) -> None:
        """Scales Adam's betas where that was asked for: before the snapshot that the change brings."""
        if not waiting.scales_betas:
            return
        try:
            self._backend.scale_betas(waiting.change.batch_factor)
        except ConfigError as error:  # they were other ones when it was asked for
            log.warning("lrpilot: the batch size has changed, and Adam's betas stay: %s", error)

    def _change_now(self, change: pb.PlanChange) -> None:
        if isinstance(self._lease, Coasting):
            self._coast_on(change)
            return
        self._plan.change(change, self._record.steps + (0 if self._finished else self._lease.done))
        if not self._finished:
            self._advance(pb.OUTCOME_REPLANNED, change)
            return
        self._finished, self._started = False, time.monotonic()
        self._book(pb.Report(outcome=pb.OUTCOME_REPLANNED, change=change))
        self._proceed()

    def _coast_on(self, change: pb.PlanChange) -> None:
        """Changes the plan of a run whose tuning has failed."""
        self._settle()
        self._plan.change(change, self._record.steps)
        self._record.replan(change, self._plan.total_steps)
        run_state = self._run_state()
        lr = lr_of_rest(change.kind, run_state)
        self._finished = False
        self._coast_along(
            None if run_state.steps_left == 0 else Coasting.over(run_state.steps_left, lr, rise_from=run_state.lr)
        )


def _packed(changes: Sequence[Waiting]) -> bytes:
    """Changes of the plan for other ranks; never empty."""
    return json.dumps([(change.SerializeToString().hex(), scales_betas) for change, scales_betas in changes]).encode()


def _unpacked(message: bytes) -> list[Waiting]:
    return [Waiting(pb.PlanChange.FromString(bytes.fromhex(change)), betas) for change, betas in json.loads(message)]
