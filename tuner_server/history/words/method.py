"""What a decision tells of its method, in the words of pages.

Decisions of the former version do not tell all of it. What they lack is inferred from the rest.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tuner_server.core.config import JobConfig
from tuner_server.core.lrs import same_lr
from tuner_server.core.messages import Decision, PosteriorCurve
from tuner_server.history.stage import Stage
from tuner_server.history.words.numbers import number

ROUNDING = 1e-6
"""The rounding of an acquisition's values, relative to what they are the difference of: far more than float64 has."""


@dataclasses.dataclass(frozen=True, slots=True)
class Correction:
    """From the best LR of the probes to the committed one: a longer run wants a lower one."""

    optimum: float
    """The best LR of a run as short as a probe."""
    factor: float
    """What it was multiplied by for length, at most 1."""
    probe_steps: int
    """The steps of a probe that move the weights."""
    drawn_to: float | None
    """The LR that the user set, where the committed one was drawn towards it."""
    lowered: bool
    """Whether it was lowered because LRs before it had failed."""
    moved: bool
    """Whether the committed LR is another than the product."""

    @property
    def product(self) -> float:
        """The best LR of the longer run, as the search alone would have it."""
        return self.optimum * self.factor


def acquisition_name(decision: Decision) -> str:
    """What the LR of a decision with a posterior was chosen by: the name and the unit of the acquisition's values."""
    name, kappa = "log expected improvement", None
    if decision.asked is not None:
        name, kappa = decision.asked.acquisition, decision.asked.kappa
    elif decision.posterior is not None and (weight := _kappa(decision.posterior)) is not None:
        name, kappa = "lower confidence bound, sign turned", weight
    return name if kappa is None else f"{name} (κ = {number(kappa)})"


def correction(stage: Stage, config: JobConfig) -> Correction | None:
    """The correction of a stage's LR in such a job; None: there was none, or nothing was committed yet."""
    decision, winner = stage.decision, stage.winner
    if decision is None or stage.directive is None or winner is None or winner.directive.profile is None:
        return None
    if decision.optimum is None or decision.correction is None:
        return None
    moved = not same_lr(decision.lr, decision.optimum * decision.correction)
    if not moved and same_lr(decision.correction, 1.0):
        return None
    drawn_to, lowered = decision.drawn_to, decision.lowered_by is not None
    if moved and _of_former_version(decision):
        lowered = stage.n_setbacks > 0
        drawn_to = None if lowered else config.base_lr
    return Correction(
        decision.optimum, decision.correction, winner.directive.profile.length, drawn_to, lowered=lowered, moved=moved
    )


def _of_former_version(decision: Decision) -> bool:
    """Whether a decision that follows from a search does not tell what was asked, nor what moved the LR."""
    return decision.posterior is not None and decision.asked is None


def _kappa(curve: PosteriorCurve) -> float | None:
    """The weight of the uncertainty in a lower confidence bound; None: the acquisition is not one.

    Its negative is kappa * sd - mean, with one kappa for all LRs.
    """
    mean, sd, value = (np.asarray(values) for values in (curve.mean, curve.sd, curve.acquisition))
    if not (len(sd) and np.isfinite(value).all() and sd.max() > 0):
        return None
    surest = int(sd.argmax())
    kappa = float((value[surest] + mean[surest]) / sd[surest])
    reach = np.abs(kappa * sd) + np.abs(mean)
    return kappa if bool((np.abs(kappa * sd - mean - value) <= ROUNDING * reach).all()) else None
