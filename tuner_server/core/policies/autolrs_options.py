"""The constants of AutoLRS, as options, and the stages that follow from them.

Source: Jin et al., "AutoLRS: Automatic learning-rate schedule by Bayesian optimization on the fly", ICLR 2021, and its
published code. Notation: tau, the committed steps of a stage; tau', the steps of a probe.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic_core import PydanticKnownError

from tuner_server.core.evidence.divergence import DIVERGENCE_FACTOR
from tuner_server.core.forecast import FORECASTERS
from tuner_server.core.messages import BatchSource
from tuner_server.core.policies.base import Options

PUBLISHED_TAU = 1000
PUBLISHED_TAU_MAX = 8000
PUBLISHED_PROBE_SHARE = 0.1
MIN_TAU_PRIME = 40
"""Fewer steps than this can't carry a forecast: the fit then follows the noise."""
FIRST_STAGES_PART = 10
"""A short run's first tau is one in so many of its steps, so that some three stages fit in."""
LAST_STAGES_PART = 5
"""A short run's largest tau is one in so many of its steps, so that validation loss drives the last stages."""


def _known_forecaster(name: object) -> object:
    """Refuses a name that no forecaster has, as pydantic refuses a value that is not one of several."""
    if name in tuple(FORECASTERS):
        return name
    *names, last = map(repr, FORECASTERS)
    raise PydanticKnownError("literal_error", {"expected": f"{', '.join(names)} or {last}"})


ForecasterName = Annotated[str, pydantic.BeforeValidator(_known_forecaster)]


class AutoLrsOptions(Options):
    """The constants of the method."""

    tau: int | None = pydantic.Field(default=None, ge=2)
    """Committed steps of the first stage; None: 1000, less in a short run."""
    tau_prime: int | None = pydantic.Field(default=None, ge=1)
    """Steps of a probe of the first stage; None: tau / 10, but at least 40. Grows as tau does."""
    tau_max: int | None = pydantic.Field(default=None, ge=2)
    """tau doubles up to this; None: 8000, less in a short run."""
    candidates: int = pydantic.Field(default=10, ge=1, le=100)
    acquisition: Literal["lcb", "log_ei"] = "lcb"
    kappa: float = pydantic.Field(default=1e6, ge=0, allow_inf_nan=False)
    """How many standard deviations the lower confidence bound lies below the mean. The published value is pure
    exploration."""
    forecaster: ForecasterName = "exponential"
    """What extrapolates the losses of a probe at a constant LR, by its name in `core.forecast.registry`."""
    decayed_probes: bool = False
    """Whether a probe's LR decays linearly to zero. It is then judged by its loss after that. There is nothing to
    extrapolate: where a loss leads at LRs that fall is no answer at any LR. So a `forecaster` is refused with it."""
    validations: int = pydantic.Field(default=16, ge=4, le=1000)
    """Validations of a probe, once tau has reached its maximum. A decayed probe has one, at its end."""
    batches: BatchSource = BatchSource.REPLAYED
    """Whether the probes of a stage share their minibatches or, as published, go on in the data."""
    final_decay: bool = False
    """Whether the LR of the last committed steps decays linearly to zero."""
    length_exponent: float = pydantic.Field(default=0.0, ge=0, le=1)
    """The winner's LR times (steps of a probe / steps of the decay) ^ this is where the final decay begins."""
    warmup_steps: int = pydantic.Field(default=0, ge=0)
    warmup_lr: float | None = pydantic.Field(default=None, gt=0, allow_inf_nan=False)
    """Where a linear warm-up leads; None: the LR that the user set."""
    divergence_factor: float = pydantic.Field(default=DIVERGENCE_FACTOR, gt=0, allow_inf_nan=False)
    """Losses so many times as far above what is typical as the first stage's sound probes came below it have
    diverged."""

    def first_stage(self, total_steps: int | None) -> tuple[int, int]:
        """The committed steps of the first stage (tau), and the steps of each of its probes (tau')."""
        tau = self.tau or PUBLISHED_TAU
        if self.tau is None and total_steps is not None:
            shortest = round(MIN_TAU_PRIME / PUBLISHED_PROBE_SHARE)
            tau = min(max(total_steps // FIRST_STAGES_PART, shortest), PUBLISHED_TAU)
        share = round(tau * PUBLISHED_PROBE_SHARE)
        return tau, self.tau_prime or max(share, MIN_TAU_PRIME)

    def largest_tau(self, total_steps: int | None) -> int:
        """Where tau stops doubling."""
        tau, _ = self.first_stage(total_steps)
        if self.tau_max is not None:
            return self.tau_max
        if total_steps is None:
            return max(tau, PUBLISHED_TAU_MAX)
        return max(tau, min(PUBLISHED_TAU_MAX, total_steps // LAST_STAGES_PART))
