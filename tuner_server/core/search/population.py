"""Which LRs the members of a population try at the same time.

A search that tries one LR after another decides on each with all before it known. One that tries several at a time
decides on all but the first with those of the same round imagined: a step outward is imagined to be no better than
the best, so that the round goes on inside; a refinement, to come out as the surrogate expects (Ginsbourger, Le Riche
and Carraro 2010, "Kriging is well-suited to parallelize optimization": the kriging believer).

Notation as in `core.search.bracket`: x, the natural log of a peak LR; d, the spacing of the first candidates in x.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from tuner_server.core.config import LrBounds
from tuner_server.core.messages import Candidate, Decision, best_candidate
from tuner_server.core.search.acquisition import LogExpectedImprovement
from tuner_server.core.search.bracket import MIN_SPACING, Widening, bracket, limits, outward, spacing
from tuner_server.core.search.observations import ask
from tuner_server.core.search.opening import Opening, OpeningState, Trial
from tuner_server.core.search.suggest import Query, Suggestion

MOST_AT_ONCE = 8
"""More probes at the same time tell nothing new: so many are as close in a range as their losses can tell apart."""
FEWEST_ROUNDS = 2
"""A first round says where to look, and a second one looks there."""


class PopulationState(OpeningState):
    """A base for the state of a policy whose search may be that of a population."""

    refined: int = 0
    """How many candidates of its rounds were refinements."""
    ahead: tuple[Decision, ...] = ()
    """The decisions for the candidates that are tried at the same time as the present one, and reported after it."""


S = TypeVar("S", bound=PopulationState)


def at_once(members: int) -> int:
    """How many of so many members try an LR of their own."""
    return min(members, MOST_AT_ONCE)


def most_rounds(max_candidates: int, members: int) -> int:
    """How many rounds it takes to try as many candidates as a search may that tries one after another."""
    return max(math.ceil(max_candidates / at_once(members)), FEWEST_ROUNDS)


def next_round(
    opening: Opening, state: S, affords: Callable[[int], bool], members: int
) -> Generator[Query, Suggestion, tuple[S, list[Trial]]]:
    """What the members try next; nothing: the search is over.

    Args:
        opening: The search.
        state: The policy's.
        affords: Whether the run has room for so many more rounds.
        members: How many there are.
    """
    bracketed = bool(state.candidates) and outward(state.candidates, opening.bounds, opening.widening) is None
    most = most_rounds(opening.max_candidates, members) * at_once(members)
    if len(state.candidates) >= most or not affords(1) or (bracketed and state.refined >= opening.refinements):
        return state, []
    trials = yield from next_trials(opening, state.candidates, members)
    n_refined = sum(trial.asked is not None for trial in trials)
    state = state.model_copy(update={"refined": state.refined + n_refined})
    if len(trials) > 1:
        words = f", {len(trials)} at the same time"
        trials = [dataclasses.replace(trial, reason=trial.reason + words) for trial in trials]
    return state, trials


def next_trials(
    opening: Opening, candidates: Sequence[Candidate], members: int
) -> Generator[Query, Suggestion, list[Trial]]:
    """What the members try next, given what was tried; nothing where there is nothing left to try."""
    bounds, widening = opening.bounds, opening.widening
    if not candidates:
        return [Trial(math.exp(x), "spread over the range") for x in _spread(bounds, widening, at_once(members))]
    found: list[Trial] = []
    bracketing, known = list(candidates), list(candidates)
    while len(found) < at_once(members):
        further = outward(bracketing, bounds, widening)
        if further is not None:
            found.append(Trial(math.exp(further), "a step outward"))
            bracketing.append(_no_better(candidates, further))
            known.append(bracketing[-1])
        elif best_candidate(candidates) is None:
            break
        else:
            between = bracket(bracketing, bounds, widening)
            answer = yield from ask(known, between, LogExpectedImprovement(), seed=opening.seed)
            reason = "the highest expected improvement between the best and its neighbours"
            found.append(Trial(answer.lr, reason, answer.posterior, answer.asked))
            known.append(_imagined(answer.log_lr, answer.expected_loss))
    return found


def _spread(bounds: LrBounds, widening: Widening, count: int) -> list[float]:
    """The middle of the range and its neighbours on both sides, a spacing apart, or closer if they fill the range."""
    low, high = bounds.log
    apart = max(min(spacing(bounds), (high - low) / max(count - 1, 1)), MIN_SPACING)
    lowest, highest = limits(bounds, widening)
    middle = math.log(bounds.middle)
    sides = (middle + sign * i * apart for i in range(1, count) for sign in (1, -1))
    return [middle, *(x for x in sides if lowest <= x <= highest)][:count]


def _no_better(candidates: Sequence[Candidate], x: float) -> Candidate:
    """A candidate that is imagined to be the worst of all, as its neighbours diverged if all did."""
    return _imagined(x, max((c.forecast for c in candidates if c.forecast is not None), default=None))


def _imagined(x: float, loss: float | None) -> Candidate:
    return Candidate(directive_number=0, lr=math.exp(x), forecast=loss, forecast_sd=None if loss is None else 0.0)
