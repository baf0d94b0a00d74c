"""A run of a tuner whose plan, data or model change on the way, by the calls that its users have."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from lrpilot import Tuner

from benchmarks.onthefly.contestant import Trial
from benchmarks.onthefly.workloads import ChangingWorkload
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.training import N_VALIDATIONS, Curve, set_lr, train_step
from benchmarks.quality.tuners import Variant
from benchmarks.quality.workloads import Batch, Session


class Loader:
    """The batches of a session as it is when this is made, and how large they are."""

    def __init__(self, session: Session) -> None:
        self._draw = session.batches
        self.batch_size = len(next(session.batches())[0])

    def __iter__(self) -> Iterator[Batch]:
        return self._draw()


class TunedRun:
    """One run, with the tuner that it has at the moment."""

    def __init__(self, variant: Variant, workload: ChangingWorkload, trial: Trial, n_planned: int | None) -> None:
        """Builds a fresh run and its tuner.

        Args:
            variant: The policy.
            workload: What is trained.
            trial: Seed and length.
            n_planned: The steps that the tuner is told of at first; None: none.
        """
        self._variant, self._workload, self._trial = variant, workload, trial
        self.session = workload.before.build(trial.seed)
        self._nominal_lr = float(self.session.optimizer.param_groups[0]["lr"])
        self.loader = Loader(self.session)
        self.tuner = self._make_tuner(n_planned)
        self._former_steps = 0
        self._search_steps = 0
        self._curve = Curve()
        self._started = time.perf_counter()

    @property
    def steps(self) -> int:
        """Optimizer steps so far, those of searches included, those of annealings that were undone left out."""
        return self._former_steps + self.tuner.committed_step + self.tuner.search_steps

    def train(self, until: int | None = None) -> None:
        """Trains up to the first step from `until` on that is not in a search; by default to the end of the plan."""
        for batch in self.tuner.batches(self.loader):
            self.tuner.step(train_step(self.session, batch))
            self._look()
            if until is not None and self.steps >= until and not self.tuner.searching:
                break

    def change(self) -> None:
        """The workload changes."""
        self._workload.go_on(self.session)
        self.loader = Loader(self.session)

    def make_fresh_tuner(self) -> None:
        """Another tuner takes over, for the steps that are left; it begins with the LR that the optimizer had."""
        former = self.steps
        self._search_steps += self.tuner.search_steps
        self.tuner.close()
        set_lr(self.session.optimizer, self._nominal_lr)
        self.tuner = self._make_tuner(self._trial.n_steps - former)
        self._former_steps = former

    def undo_annealing(self, n_steps: int) -> None:
        """Goes back to before an annealing of `n_steps` steps, as if it had not been."""
        self.tuner.undo_annealing()
        self._former_steps -= n_steps
        self._search_steps -= n_steps
        n_kept = sum(step <= self.steps for step in self._curve.val_steps)
        for column in (self._curve.val_steps, self._curve.val_losses, self._curve.lrs):
            del column[n_kept:]

    def curve(self) -> Curve:
        """How the run went."""
        final = self.session.judge()
        self._curve.final_val_loss = final if math.isfinite(final) else math.inf
        self._curve.diverged = not math.isfinite(final)
        self._curve.wall_s = time.perf_counter() - self._started
        self._curve.search_steps = self._search_steps + self.tuner.search_steps
        self._curve.peak_lr = max(self._curve.lrs, default=None)
        self.tuner.close()
        return self._curve

    def _make_tuner(self, n_steps: int | None) -> Tuner:
        return self._variant.tuner(self.session, self._workload.before, n_steps, self._trial.seed, LocalTransport())

    def _look(self) -> None:
        """Validates where the course is to be drawn; never in a search, which does not stay."""
        steps = self.steps
        due = (self._curve.val_steps[-1] if self._curve.val_steps else 0) + self._trial.n_steps // N_VALIDATIONS
        if steps < due or self.tuner.searching:
            return
        self._curve.val_steps.append(steps)
        self._curve.val_losses.append(self.session.validate())
        self._curve.lrs.append(self.tuner.lr)
