"""What the earlier jobs of a family tell a new one: where the best LR of a small run may lie, and how surely.

An optimum is the best peak LR of a probe, as it was found, not corrected for the length of the run. Probes of several
lengths are brought to one by the power law that also corrects for that (`core.stages.decayed_probe.length_correction`).

Notation: x, the natural log of an LR; n, the steps of a probe; w, the weight of a job.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import pydantic

from tuner_server.core.messages import MAX_STEPS, MeasureName, Value

LENGTH_EXPONENT = 0.2
"""The exponent between probes of two lengths, which differ by little; policy budget has the same default."""
DISCOUNT = 0.8
"""The weight of a job, relative to that of the next newer one: code and data change, so that old optima go stale."""
BAD_END_WEIGHT = 0.25
"""The weight of a job whose LR came to a bad end: the optimum of its probes was at best a little too high."""
SPREAD = math.log(2.5)
"""The standard deviation of x between jobs, before any two of them have been seen: more than a family's, usually."""
SPREAD_WEIGHT = 1.0
"""How many jobs that guess counts as."""
LEAST_SD = math.log(1.3)
"""A search of few probes finds its optimum no better than this, however well the jobs seem to agree."""

MAX_NORMS = 1000
"""Norms that a job leaves to later ones."""
MAX_LOG_LR = 700.0
"""No double has a larger x; the square of one that is larger by far would be infinite."""


class NormCurve(Value):
    """What gradient norms a job had on its way."""

    measure: MeasureName
    """Which norms these are."""
    norms: Annotated[tuple[float, ...], pydantic.Field(max_length=MAX_NORMS)]
    """Evenly over its committed steps, past the warm-up; all are positive."""


class Optimum(Value):
    """What the search of a job found, and what it met on its way after that."""

    log_lr: float = pydantic.Field(ge=-MAX_LOG_LR, le=MAX_LOG_LR)
    """The x of the best small run."""
    probe_steps: int = pydantic.Field(ge=1, le=MAX_STEPS)
    """The n of that run."""
    good_end: bool = True
    """Whether nothing speaks against it so far: the job did not diverge in committed steps, nor fail."""
    norms: NormCurve | None = None
    """The gradient norms of its committed steps; None: they were not measured, or are not all there yet."""


class Prior(Value):
    """The place where the optimum of a new search may lie, about normal in x."""

    log_lr: float = pydantic.Field(allow_inf_nan=False)
    """The mean of x."""
    sd: float = pydantic.Field(gt=0, allow_inf_nan=False)
    """The standard deviation of the next job's x: the spread between jobs, and what so few jobs leave uncertain."""
    n_jobs: int = pydantic.Field(ge=1)
    probe_steps: int = pydantic.Field(ge=1)
    """The n that `log_lr` is for."""
    norms: NormCurve | None = None
    """The gradient norms of the newest job that left any."""

    def at(self, probe_steps: int, exponent: float) -> float:
        """The mean of x for probes of another length."""
        return _at(self.log_lr, self.probe_steps, probe_steps, exponent)


def prior_of(optima: Sequence[Optimum]) -> Prior | None:
    """The prior that earlier jobs make, given newest first; None without any.

    The mean is the weighted one. The variance is that of the next draw from a normal whose variance is unknown: the
    weighted spread and `SPREAD`, which counts as `SPREAD_WEIGHT` jobs, times 1 + 1 / (sum of w).
    """
    if not optima:
        return None
    probe_steps = optima[0].probe_steps
    xs = [_at(optimum.log_lr, optimum.probe_steps, probe_steps, LENGTH_EXPONENT) for optimum in optima]
    weights = [DISCOUNT**i * (1.0 if optimum.good_end else BAD_END_WEIGHT) for i, optimum in enumerate(optima)]
    total = math.fsum(weights)
    mean = math.fsum(w * x for w, x in zip(weights, xs, strict=True)) / total
    squares = math.fsum(w * (x - mean) ** 2 for w, x in zip(weights, xs, strict=True))
    spread = (squares + SPREAD_WEIGHT * SPREAD**2) / (total + SPREAD_WEIGHT)
    sd = math.sqrt(spread * (1.0 + 1.0 / total))
    norms = next((optimum.norms for optimum in optima if optimum.norms is not None), None)
    return Prior(log_lr=mean, sd=max(sd, LEAST_SD), n_jobs=len(optima), probe_steps=probe_steps, norms=norms)


def _at(log_lr: float, probe_steps: int, wanted: int, exponent: float) -> float:
    return log_lr + exponent * math.log(probe_steps / wanted)
