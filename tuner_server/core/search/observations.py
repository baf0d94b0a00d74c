"""Turns the candidates of a stage into what the surrogate is asked and reads, and what it says into values to keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence

import numpy as np

from tuner_server.core.messages import Asked, Candidate, PosteriorCurve
from tuner_server.core.search.acquisition import Acquisition
from tuner_server.core.search.gaussian_process.surrogate import Observations
from tuner_server.core.search.suggest import MIN_SEPARATION, Evidence, Query, Suggestion


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """An LR that the search was asked for, and what a decision tells of it."""

    log_lr: float
    asked: Asked
    posterior: PosteriorCurve | None
    """What the surrogate thought; None: the LR was drawn."""
    expected_loss: float | None
    """What it expected at that LR; None, likewise."""
    expected_sd: float | None

    @property
    def lr(self) -> float:
        """The LR."""
        return math.exp(self.log_lr)


def ask(
    candidates: Sequence[Candidate],
    bounds: tuple[float, float],
    acquisition: Acquisition,
    *,
    seed: int,
    min_separation: float = MIN_SEPARATION,
) -> Generator[Query, Suggestion, Answer]:
    """Asks for the LR with the highest acquisition, given what the candidates came to; the arguments as `Query`'s."""
    query = Query(observations(candidates), bounds, acquisition, seed=seed, min_separation=min_separation)
    found = yield query
    low, high = bounds
    told = Asked(acquisition=acquisition.name, kappa=acquisition.kappa, low=math.exp(low), high=math.exp(high))
    loss, sd = expected(found)
    return Answer(found.log_lr, told, posterior_curve(found.evidence), loss, sd)


def observations(candidates: Sequence[Candidate]) -> Observations:
    """The candidates as observations: a forecast with its variance, or a censored level.

    A probe that had no loss at all to tell a level from gets the highest level that is known of the others.
    """
    losses = [c.at_least if c.forecast is None else c.forecast for c in candidates]
    highest = max((loss for loss in losses if loss is not None), default=0.0)
    return Observations(
        log_lr=np.array([math.log(c.lr) for c in candidates], dtype=np.float64),
        loss=np.array([highest if loss is None else loss for loss in losses], dtype=np.float64),
        noise_var=np.array([(c.forecast_sd or 0.0) ** 2 for c in candidates], dtype=np.float64),
        censored=np.array([c.diverged for c in candidates], dtype=np.bool_),
    )


def posterior_curve(evidence: Evidence | None) -> PosteriorCurve | None:
    """The surrogate's evidence as a value that can be kept."""
    if evidence is None:
        return None
    return PosteriorCurve(
        lr=tuple(np.exp(evidence.log_lr).tolist()),
        mean=tuple(evidence.mean.tolist()),
        sd=tuple(evidence.sd.tolist()),
        acquisition=tuple(evidence.acquisition.tolist()),
    )


def expected(found: Suggestion) -> tuple[float | None, float | None]:
    """The loss that the surrogate expects at a suggestion, and its standard deviation; None where there is none."""
    evidence = found.evidence
    if evidence is None:
        return None, None
    return (
        float(np.interp(found.log_lr, evidence.log_lr, evidence.mean)),
        float(np.interp(found.log_lr, evidence.log_lr, evidence.sd)),
    )
