"""What the policy of a job does with its evidence, as charts need it: the config says it, the history does not."""

from __future__ import annotations

import dataclasses

from tuner_server.core import policies
from tuner_server.core.config import JobConfig
from tuner_server.core.decayed import length_correction
from tuner_server.core.policies.autolrs import AutoLrs
from tuner_server.web.numbers import number
from tuner_server.web.timeline import Stage

SAME_LR = 0.02
"""LRs closer than this part of them are one LR to whoever reads a sentence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Correction:
    """Why the committed LR is not the best one of the probes: a longer run wants a lower one."""

    optimum: float
    """The best LR of a run as short as a probe."""
    factor: float
    """What it was multiplied by; below 1."""
    probe_steps: int
    """Of a probe that move the weights."""


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


def correction(stage: Stage, config: JobConfig) -> Correction | None:
    """For length; None: there was none, or nothing was committed yet."""
    decision, directive, winner = stage.decision, stage.directive, stage.winner
    if decision is None or directive is None or winner is None or same_lr(decision.lr, winner.lr):
        return None
    assert winner.directive.profile is not None
    n_steps, exponent = winner.directive.profile.length, policies.make(config).options.length_exponent
    factor = length_correction(n_steps, directive.n_steps, exponent)
    return Correction(decision.lr / factor, factor, n_steps) if 1 - factor > SAME_LR else None


def same_lr(a: float, b: float) -> bool:
    """Whether two LRs are one to whoever reads a sentence."""
    return abs(a / b - 1) <= SAME_LR
