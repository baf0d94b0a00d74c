"""How a run goes on when its tuning fails: without it, to its planned end."""

from __future__ import annotations

import abc
import logging
import math
import time
from collections.abc import Callable

from lrpilot.errors import ServerError
from lrpilot.run.coasting import Coasting, attempt
from lrpilot.run.measuring import begin_measuring
from lrpilot.run.runners.runner import Runner
from lrpilot.session.annealing import lr_of_rest
from lrpilot.v1 import tuner_pb2 as pb

log = logging.getLogger("lrpilot")


class CoastingRunner(Runner, abc.ABC):
    """Ends the tuning, and not the training, where something fails: the steps that are left are then annealed."""

    def _guarded(self, act: Callable[[], None]) -> None:
        """Whatever fails in `act` ends the tuning, and not the training.

        Raises:
            ServerError: `strict` is set.
            RuntimeError: another rank has gone, and with it the training.
        """
        try:
            act()
        except Exception as error:
            if (self._strict and isinstance(error, ServerError)) or (self._ranks is not None and self._ranks.lost):
                raise
            self._coast(error)
        except BaseException:
            self._interrupted = True
            raise

    def _coast(self, error: Exception) -> None:
        """The tuning has failed in the middle of something: goes on without, over so many steps as are left."""
        log.warning(
            "lrpilot: the tuning has failed; training goes on without it, and anneals its LR: %s: %s",
            type(error).__name__,
            error,
            exc_info=error,
        )
        if self._ranks is not None:
            self._ranks.part()
        remaining = self._run_state().steps_left
        if remaining is not None:
            remaining = max(remaining - self._lease.done, 0)
        rolled_back = self._settle()
        if rolled_back:
            attempt(lambda: self._backend.restore(committed=self._lease.committed))
        follow = pb.Directive(phase=pb.PHASE_TRAIN, restore=rolled_back, batches=pb.BATCH_SOURCE_REPLAYED)
        attempt(lambda: self._position.follow(follow))
        attempt(self._session.close)
        self._due = None
        self._rollback.begun()
        self._rollback.abandon()
        run_state = self._run_state()
        lr = lr_of_rest(None, run_state)
        self._coast_along(None if remaining == 0 else Coasting.over(remaining, lr, rise_from=run_state.lr))

    def _settle(self) -> bool:
        """Books the steps since the last report, as far as that can be done; whether steps are to be rolled back."""
        lease = self._lease
        losses = attempt(self._flushed_losses)
        diverged = self._ranks is None and losses is not None and not all(map(math.isfinite, losses))
        goes_back = lease.done > 0 and (diverged or not lease.committed)
        rolled_back = self._rollback.due or (self._rollback.possible and goes_back)
        rolled_back &= not isinstance(lease, Coasting)
        report = pb.Report(
            losses=[math.nan] * lease.done if losses is None else losses,
            outcome=pb.OUTCOME_DIVERGED if rolled_back else pb.OUTCOME_PARTIAL,
            wall_time_s=time.monotonic() - self._started,
        )
        if lease.done:
            attempt(lambda: self._record.add(lease.directive, report))
        lease.expire()
        return rolled_back

    def _coast_along(self, lease: Coasting | None) -> None:
        """Goes on with so many steps, or ends after the last one."""
        if lease is None:
            self._finish()
            return
        attempt(self._ending.reopen)
        attempt(lambda: self._ending.begin(None))
        self._lease, self._validations, self._started = lease, [], time.monotonic()
        attempt(lambda: self._backend.begin(lease.directive.n_steps))
        begin_measuring(self._backend, lease.directive, lease.directive.n_steps)
        attempt(lambda: self._set_lr(lease.lr()))
