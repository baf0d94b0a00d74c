"""How a run goes on in another plan: at once, or when the search is over, and with the server or without it."""

from __future__ import annotations

import logging
import time

from lrpilot.errors import ConfigError
from lrpilot.run.coasting import Coasting
from lrpilot.run.run_plan import Waiting
from lrpilot.run.runners.directive_runner import DirectiveRunner
from lrpilot.session.annealing import lr_of_rest
from lrpilot.v1 import tuner_pb2 as pb

log = logging.getLogger("lrpilot")


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
        while self._plan.waits and (self._finished or self._lease.committed):
            self._guarded(self._change_waiting)

    def _change(self, change: pb.PlanChange, *, scales_betas: bool = False) -> None:
        """Changes the plan: at once after committed steps and after the end, else when the search is over.

        Where changes are held, they wait in committed steps too.

        Args:
            change: what is asked for.
            scales_betas: whether Adam's betas follow the batch size with it.

        Raises:
            ServerError: a decision can't be had, and `strict` is set.
        """
        self._catch_up()
        self._plan.wait(Waiting(change, scales_betas))
        if self._finished or (self._lease.committed and not self._holds):
            self._guarded(self._change_waiting)

    def _proceed(self) -> None:
        super()._proceed()
        if self._finished or self._lease.committed:
            self._change_waiting()

    def _coast(self, error: Exception) -> None:
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
