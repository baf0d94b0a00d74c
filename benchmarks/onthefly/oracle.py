"""The oracle: whoever knows that a change comes, and sweeps the LR before it and after it, with hindsight."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmarks.onthefly.contestant import Trial
from benchmarks.onthefly.phases import continued
from benchmarks.onthefly.workloads import WORKLOADS, ChangingWorkload
from benchmarks.quality.lr_rules import ShapedLr
from benchmarks.quality.schedules import SHAPES
from benchmarks.quality.training import Curve, train
from benchmarks.quality.workloads import Session

_LINEAR = SHAPES["linear"]


@dataclass(frozen=True)
class Oracle:
    """Two linear decays, each with the best peak LR of a sweep; the second one starts from the state of the first.

    Attributes:
        change: The share of the steps before the change.
        planned: The share of the steps that the first decay is planned for; at the change it is cut off.
    """

    change: float = 0.5
    planned: float = 0.5

    def first_steps(self, n_steps: int) -> int | None:
        """The first decay is tuned for the length that it is planned for."""
        return round(self.planned * n_steps)

    def lrs(self, workload: ChangingWorkload) -> tuple[float | None, ...]:
        """Those after the change."""
        return workload.lrs

    def run(self, workload: ChangingWorkload, trial: Trial) -> Curve:
        """Trains the second decay from the state that the first one leaves, which a process makes once."""
        assert trial.first_lr is not None
        n_first = round(self.change * trial.n_steps)
        n_planned = round(self.planned * trial.n_steps)
        first, state = _first(workload.name, trial.first_lr, trial.seed, n_first, n_planned)
        session = workload.before.build(trial.seed)
        _restore(session, state)
        workload.go_on(session)
        second = self._second_rule(trial)
        return continued(first, n_first, lambda: train(session, second.n_steps, second))

    def lr(self, trial: Trial, step: int) -> float:
        """The LR of a step of a run."""
        assert trial.first_lr is not None
        n_first = round(self.change * trial.n_steps)
        if step < n_first:
            return ShapedLr(_LINEAR, trial.first_lr, round(self.planned * trial.n_steps)).lr(step)
        return self._second_rule(trial).lr(step - n_first)

    def _second_rule(self, trial: Trial) -> ShapedLr:
        assert trial.lr is not None
        return ShapedLr(_LINEAR, trial.lr, trial.n_steps - round(self.change * trial.n_steps))


@lru_cache(maxsize=1)
def _first(name: str, lr: float, seed: int, n_steps: int, n_planned: int) -> tuple[Curve, dict[str, Any]]:
    """The first `n_steps` steps of a linear decay, and the state that they lead to."""
    session = WORKLOADS[name].before.build(seed)
    curve = train(session, n_steps, ShapedLr(_LINEAR, lr, n_planned))
    return curve, {"model": session.model.state_dict(), "optimizer": session.optimizer.state_dict()}


def _restore(session: Session, state: dict[str, Any]) -> None:
    session.model.load_state_dict(state["model"])
    # Copied, since an optimizer takes over the tensors that it loads.
    session.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


ORACLES: dict[str, Oracle] = {
    "oracle": Oracle(),
    "oracle, extended at the end": Oracle(),
    "oracle, extended in the middle": Oracle(change=0.25),
}
