"""The contestants that tune: our policies, and what their users may do when something changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.onthefly.contestant import Contestant, Trial
from benchmarks.onthefly.tuned_run import TunedRun
from benchmarks.onthefly.workloads import ChangingWorkload
from benchmarks.quality.schedules import WSD_DECAY
from benchmarks.quality.training import Curve
from benchmarks.quality.tuners import VARIANTS, Variant

Reaction = Callable[[TunedRun, Trial], None]


def _nothing(run: TunedRun, trial: Trial) -> None:
    """The tuner goes on as it had planned."""


def _replan(run: TunedRun, trial: Trial) -> None:
    """The tuner is told that something changed, and how large batches are now."""
    run.tuner.replan("what is trained has changed", batch_size=run.loader.batch_size)


def _extend(run: TunedRun, trial: Trial) -> None:
    """The tuner is told how many steps are added."""
    run.tuner.extend(trial.n_steps - round(EXTENDED_FROM * trial.n_steps))


def _make_fresh_tuner(run: TunedRun, trial: Trial) -> None:
    """Another tuner takes over."""
    run.make_fresh_tuner()


EXTENDED_FROM = 0.5
"""The share of the steps that a run is planned for which is extended later."""


class _Tuner:
    """What tuners have in common: they choose their LRs themselves."""

    def first_steps(self, n_steps: int) -> int | None:
        """No LR is given."""
        return None

    def lrs(self, workload: ChangingWorkload) -> tuple[float | None, ...]:
        """No LR is given."""
        return (None,)


@dataclass(frozen=True)
class Reacting(_Tuner):
    """A tuned run to which something happens.

    Attributes:
        variant: The policy.
        react: What its user does.
        change: The share of the steps before the change.
        planned: The share of the steps that the tuner is told of at first.
    """

    variant: Variant
    react: Reaction
    change: float = 0.5
    planned: float = 1.0

    def run(self, workload: ChangingWorkload, trial: Trial) -> Curve:
        """Trains one run."""
        run = TunedRun(self.variant, workload, trial, round(self.planned * trial.n_steps))
        run.train(round(self.change * trial.n_steps))
        if workload.change is not None:
            run.change()
        self.react(run, trial)
        run.train()
        return run.curve()


@dataclass(frozen=True)
class OpenEnded(_Tuner):
    """A tuned run without an end, which is annealed three times, and goes on from before it but for the last time.

    Attributes:
        variant: The policy.
        run_type: What keeps the run.
    """

    variant: Variant
    run_type: type[TunedRun] = TunedRun

    def run(self, workload: ChangingWorkload, trial: Trial) -> Curve:
        """Trains one run."""
        run = self.run_type(self.variant, workload, trial, None)
        for end in (trial.n_steps // 4, trial.n_steps // 2, trial.n_steps):
            run.train(round((1.0 - WSD_DECAY) * end))
            n_annealing = max(1, end - run.steps)
            run.tuner.anneal(n_annealing)
            run.train()
            if end < trial.n_steps:
                run.undo_annealing(n_annealing)
        return run.curve()


_BUDGET = VARIANTS["budget"]
TUNERS: dict[str, Contestant] = {
    "budget, told": Reacting(_BUDGET, _replan),
    "budget, not told": Reacting(_BUDGET, _nothing),
    "budget, fresh": Reacting(_BUDGET, _make_fresh_tuner),
    "budget, extended at the end": Reacting(_BUDGET, _extend, planned=EXTENDED_FROM),
    "budget, fresh at the end": Reacting(_BUDGET, _make_fresh_tuner, planned=EXTENDED_FROM),
    "budget, extended in the middle": Reacting(_BUDGET, _extend, change=0.25, planned=EXTENDED_FROM),
    "budget, fresh in the middle": Reacting(_BUDGET, _make_fresh_tuner, change=0.25, planned=EXTENDED_FROM),
    "open_ended": OpenEnded(Variant("open_ended")),
}
