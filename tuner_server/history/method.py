"""What the policy of a job does with its evidence, as charts need it: the config says it, the history does not."""

from __future__ import annotations

import dataclasses

from tuner_server.core import policies
from tuner_server.core.config import JobConfig
from tuner_server.core.policies.autolrs import AutoLrs
from tuner_server.history.numbers import number
from tuner_server.history.timeline import Stage

SAME_LR = 0.02
"""LRs closer than this part of them are one LR to whoever reads a sentence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Correction:
    """From the best LR of the probes to the committed one: a longer run wants a lower one."""

    optimum: float
    """The best LR of a run as short as a probe."""
    factor: float
    """What it was multiplied by for length, at most 1."""
    probe_steps: int
    """Of a probe that move the weights."""
    drawn: bool
    """Whether the committed LR is another than the product: the one that the user set counted, too."""
    lowered: bool
    """Whether it is another because LRs before it had failed."""

    @property
    def product(self) -> float:
        """The best LR of the longer run, as the search alone would have it."""
        return self.optimum * self.factor


def acquisition_name(config: JobConfig) -> str:
    """What probes are chosen by: the name and the unit of the acquisition's values."""
    policy = policies.make(config)
    if isinstance(policy, AutoLrs) and policy.options.acquisition == "lcb":
        return f"lower confidence bound, sign turned (κ = {number(policy.options.kappa)})"
    return "log expected improvement"


def forecasts(config: JobConfig) -> bool:
    """Whether probes are extrapolated; where they are not, their ends are measurements."""
    policy = policies.make(config)
    return isinstance(policy, AutoLrs) and not policy.options.decayed_probes


def correction(stage: Stage) -> Correction | None:
    """The correction of a stage's LR; None: there was none, or nothing was committed yet."""
    decision, winner = stage.decision, stage.winner
    if decision is None or stage.directive is None or winner is None or winner.directive.profile is None:
        return None
    if decision.optimum is None or decision.correction is None:
        return None
    moved = not same_lr(decision.lr, decision.optimum * decision.correction)
    if not moved and same_lr(decision.correction, 1.0):
        return None
    return Correction(
        decision.optimum,
        decision.correction,
        winner.directive.profile.length,
        drawn=moved and not stage.n_setbacks,
        lowered=moved and stage.n_setbacks > 0,
    )


def same_lr(a: float, b: float) -> bool:
    """Whether two LRs are one to whoever reads a sentence."""
    return abs(a / b - 1) <= SAME_LR
