"""Suggests which LR to try next, with the evidence for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from tuner_server.core.faults import guarded
from tuner_server.core.search.acquisition import Acquisition
from tuner_server.core.search.gaussian_process.hyperparameters import IndexArray
from tuner_server.core.search.gaussian_process.lattice import lattice
from tuner_server.core.search.gaussian_process.posterior import Fitted, FloatArray, Moments, Outlook, PriorMean
from tuner_server.core.search.gaussian_process.surrogate import Observations, Surrogate, fit_all

R = TypeVar("R")

GRID_SIZE = 256
"""LRs at which the acquisition is evaluated: over four decades, 3.7% apart, well below what a loss can tell apart."""
MIN_SEPARATION = 0.01
"""A fraction of the range of log LR: over four decades, 10% in LR. The loss can't tell closer LRs apart."""
_ROUNDED_UP = 1.0 + 1e-9
"""Distances are compared after they were rounded: an LR that seems to be just far enough may be a hair too close."""
_LIKELY_ERROR = 0.2
"""A guess of the highest acquisition is hardly ever too high by more. A wrong guess costs time, and nothing else."""
_LOWEST_GUESS = 1.5
"""The highest acquisition lies hardly ever this far below the highest bound."""
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
    """

    log_lr: float
    _evidence: Callable[[], Evidence] | None = None

    @functools.cached_property
    def evidence(self) -> Evidence | None:
        """What the surrogate thought, made when it is first asked for; None for the first LR, which is drawn."""
        return None if self._evidence is None else self._evidence()


class _Kept(NamedTuple):
    """What the evidence for a suggestion is made from."""

    query: Query
    fitted: Fitted
    moments: Moments
    best: float

    def evidence(self) -> Evidence:
        query, moments, (low, high) = self.query, self.moments, self.query.bounds
        places = _thinned(query.grid_size)
        log_lr = low + (high - low) * lattice(query.grid_size, self.fitted.grid).x[places]
        log_lr[-1] = high  # to the bit
        mean, variance = moments.mean[places], moments.variance[places]
        if query.acquisition.bound_is_value:
            value = query.acquisition.at_most(Moments(mean, variance), self.best)
        else:
            value = query.acquisition.evaluate(self.fitted.posterior(log_lr), self.best)
        return Evidence(log_lr, mean, np.sqrt(variance), value)


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
    return Suggestion(float(np.random.default_rng(query.seed).uniform(*query.bounds)))


def _choose(query: Query, fitted: Fitted) -> Suggestion:
    size, (low, high), compared = query.grid_size, query.bounds, lattice(query.grid_size, fitted.grid)
    outlook = fitted.outlook(compared.x, compared.correlations(fitted.x, fitted.lengthscales))
    moments = outlook.moments()
    # The incumbent is the lowest mean at an observed LR, which noise can't flatter as it can the lowest observed loss.
    best = fitted.lowest_mean() if query.acquisition.uses_best else math.nan
    bound = query.acquisition.at_most(moments, best)
    for start, stop in compared.near(fitted.x, query.min_separation * _ROUNDED_UP):
        bound[start:stop] = -np.inf
    top = int(bound.argmax())
    if bound[top] == -np.inf:
        chosen = compared.farthest(fitted.x)
    elif query.acquisition.bound_is_value:
        chosen = top
    else:
        chosen = _highest(query.acquisition, outlook, moments, best, bound, top)
    log_lr = high if chosen == size - 1 else low + (high - low) * float(compared.x[chosen])
    return Suggestion(log_lr, _Kept(query, fitted, moments, best).evidence)


def _highest(
    acquisition: Acquisition, outlook: Outlook, moments: Moments, best: float, bound: FloatArray, top: int
) -> int:
    """Where the acquisition is the highest.

    Args:
        acquisition: What is compared.
        outlook: What the surrogate expects at the LRs.
        moments: Mean and variance of that.
        best: The lowest loss known.
        bound: [m] bounds of the acquisition; minus infinity at LRs that are not to be suggested.
        top: Where the bound is the highest.
    """
    # A guess how high the highest value is: what has no chance then need not be looked at, if the guess was right.
    guess = acquisition.likely(float(moments.mean[top]), float(moments.variance[top]), best)
    level = max(guess - _LIKELY_ERROR, float(bound[top]) - _LOWEST_GUESS)
    places = (bound >= level).nonzero()[0]
    value = acquisition.evaluate(outlook.at(places).posterior(), best)
    at = int(value.argmax())
    chosen, highest = int(places[at]), float(value[at])
    if highest < level:
        places = ((bound >= highest) & (bound < level)).nonzero()[0]
        if len(places):
            value = acquisition.evaluate(outlook.at(places).posterior(), best)
            at = int(value.argmax())
            chosen = int(places[at]) if value[at] > highest else chosen
    return chosen


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
