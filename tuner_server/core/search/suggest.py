"""Suggests which LR to try next, with the evidence for it."""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TypeVar

import numpy as np

from tuner_server.core.faults import guarded
from tuner_server.core.search.acquisition import Acquisition
from tuner_server.core.search.hyperparameters import IndexArray
from tuner_server.core.search.posterior import Fitted, FloatArray, Outlook, PriorMean
from tuner_server.core.search.surrogate import Observations, Surrogate, fit_all

R = TypeVar("R")

GRID_SIZE = 256
"""LRs at which the acquisition is evaluated: over four decades, 3.7% apart, well below what a loss can tell apart."""
MIN_SEPARATION = 0.01
"""A fraction of the range of log LR: over four decades, 10% in LR. The loss can't tell closer LRs apart."""
_ROUNDED_UP = 1.0 + 1e-9
"""Distances are compared after they were rounded: an LR that seems to be just far enough may be a hair too close."""
EVIDENCE_SIZE = 64
"""Points of the curves that are kept: enough for a plot, little to store."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the surrogate thought, over `EVIDENCE_SIZE` LRs at most; all arrays have the same length."""

    log_lr: FloatArray
    mean: FloatArray
    sd: FloatArray
    acquisition: FloatArray


@dataclass(frozen=True, eq=False)
class Suggestion:
    """The LR to try next.

    Attributes:
        log_lr: Its natural logarithm.
        evidence: None for the first LR, which is drawn.
    """

    log_lr: float
    evidence: Evidence | None


@dataclass(frozen=True, eq=False)
class Query:
    """A question to the surrogate: which LR inside the bounds has the highest acquisition?

    Attributes:
        observations: What is known. With none, the LR is drawn log-uniformly, by `seed`.
        bounds: Natural logarithms of the lowest and the highest LR.
        acquisition: Ranks the LRs.
        seed: The seed of the first draw; it makes no difference afterwards.
        prior_mean: See `Surrogate`.
        grid_size: How many LRs are compared.
        min_separation: LRs closer than this to one that was observed are not suggested, as a fraction of the range.
            Where all are, the one farthest from any is.

    Raises:
        ValueError: The bounds are not finite or not in order.
    """

    observations: Observations
    bounds: tuple[float, float]
    acquisition: Acquisition
    _: KW_ONLY
    seed: int
    prior_mean: PriorMean | None = None
    grid_size: int = GRID_SIZE
    min_separation: float = MIN_SEPARATION

    def __post_init__(self) -> None:
        self.surrogate  # noqa: B018 - refuses the bounds

    @functools.cached_property
    def surrogate(self) -> Surrogate:
        """The model before it has seen the observations."""
        return Surrogate(self.bounds, self.prior_mean)


def suggest(query: Query) -> Suggestion:
    """The answer to a query; the same for the same query, bit for bit."""
    (found,) = suggest_all([query])
    return found


def suggest_all(queries: Sequence[Query]) -> list[Suggestion]:
    """The answers to many queries, each what `suggest` says, bit for bit, whatever the others are.

    Their surrogates are fitted in one batch. What follows is done for each: there the arrays are large, and one pass
    over many of them takes as long as many passes over one.
    """
    observed = [query for query in queries if len(query.observations)]
    fitted = iter(fit_all([(query.surrogate, query.observations) for query in observed]))
    return [_choose(query, next(fitted)) if len(query.observations) else _draw(query) for query in queries]


def _draw(query: Query) -> Suggestion:
    return Suggestion(float(np.random.default_rng(query.seed).uniform(*query.bounds)), evidence=None)


def _choose(query: Query, fitted: Fitted) -> Suggestion:
    size, (low, high) = query.grid_size, query.bounds
    grid, thinned = _unit_grid(size), _thinned(size)
    # The observed LRs go along: the lowest mean among them is the incumbent, which noise can't flatter as it can the
    # lowest observed loss.
    outlook = fitted.outlook(np.concatenate([grid, fitted.x]))
    moments = outlook.moments()
    best = float(np.minimum.reduce(moments.mean[size:]))
    nearest = np.minimum.reduce(outlook.distance[:, :size], 0)
    eligible = nearest >= min(query.min_separation * _ROUNDED_UP, float(np.maximum.reduce(nearest)))
    bound = query.acquisition.at_most(moments, best)[:size]
    hopeful = np.where(eligible, bound, -np.inf)
    value, ranked = bound, hopeful
    if query.acquisition.gap is not None:
        value = _evaluated(query, outlook, best, hopeful)
        ranked = np.where(eligible, value, -np.inf)

    log_lr = low + (high - low) * grid[thinned]
    log_lr[-1] = high  # to the bit
    chosen = int(ranked.argmax())
    return Suggestion(
        log_lr=high if chosen == size - 1 else low + (high - low) * float(grid[chosen]),
        evidence=Evidence(log_lr, moments.mean[thinned], np.sqrt(moments.variance[thinned]), value[thinned]),
    )


def _evaluated(query: Query, outlook: Outlook, best: float, hopeful: FloatArray) -> FloatArray:
    """[m] the acquisition where evidence is kept, and wherever it may be the highest; elsewhere minus infinity.

    Args:
        query: The question.
        outlook: What the surrogate expects at the LRs.
        best: The lowest loss known.
        hopeful: [m] bounds of the acquisition; minus infinity at LRs that are not to be suggested.
    """
    acquisition, value = query.acquisition, np.full(len(hopeful), -np.inf)
    # A guess how high the highest value is: what has no chance then need not be looked at, if the guess was right.
    level = float(np.maximum.reduce(hopeful)) - (acquisition.gap or 0.0)
    wanted = hopeful >= level
    wanted[_thinned(len(hopeful))] = True
    places = wanted.nonzero()[0]
    value[places] = acquisition.evaluate(outlook.posterior(places), best)
    highest = float(np.maximum.reduce(value, where=hopeful > -np.inf, initial=-np.inf))
    places = ((hopeful >= highest) & ~wanted).nonzero()[0] if highest < level else places[:0]
    if len(places):
        value[places] = acquisition.evaluate(outlook.posterior(places), best)
    return value


@functools.lru_cache(maxsize=16)
def _unit_grid(size: int) -> FloatArray:
    """[size] numbers from 0 to 1, evenly spaced."""
    return np.linspace(0.0, 1.0, size)


@functools.lru_cache(maxsize=16)
def _thinned(size: int) -> IndexArray:
    """The places, on a grid of that size, of the LRs whose evidence is kept."""
    return np.linspace(0, size - 1, min(size, EVIDENCE_SIZE)).round().astype(np.intp)


def run(asking: Generator[Query, Suggestion, R]) -> R:
    """Answers one query after the other, until what asks them returns. A failure is raised where it was asked."""
    try:
        query = next(asking)
        while True:
            try:
                with guarded("a query"):
                    found = suggest(query)
            except Exception as error:
                query = asking.throw(error)
            else:
                query = asking.send(found)
    except StopIteration as done:
        result: R = done.value
        return result
