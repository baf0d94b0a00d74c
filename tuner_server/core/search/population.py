"""Which LRs the members of a population try at the same time.

A search that tries one LR after another decides on each with all before it known. One that tries several at a time
decides on all but the first with those of the same round imagined: a step outward is imagined to be no better than
the best, so that the round goes on inside; a refinement, to come out as the surrogate expects (Ginsbourger, Le Riche
and Carraro 2010, "Kriging is well-suited to parallelize optimization": the kriging believer).

Notation as in `core.search.bracket`: x, the natural log of a peak LR; d, the spacing of the first candidates in x.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import NamedTuple

from tuner_server.core.config import LrBounds
from tuner_server.core.messages import Candidate, best_candidate
from tuner_server.core.search.acquisition import LogExpectedImprovement
from tuner_server.core.search.bracket import MIN_SPACING, bracket, limits, outward, spacing
from tuner_server.core.search.observations import Answer, ask
from tuner_server.core.search.suggest import Query, Suggestion

MOST_AT_ONCE = 8
"""More probes at the same time tell nothing new: so many are as close in a range as their losses can tell apart."""
FEWEST_ROUNDS = 2
"""A first round says where to look, and a second one looks there."""


class Proposal(NamedTuple):
    """An LR to try."""

    log_lr: float
    reason: str
    answer: Answer | None
    """What the search said; None: it is one of the first round, or a step outward."""


def at_once(members: int) -> int:
    """How many of so many members try an LR of their own."""
    return min(members, MOST_AT_ONCE)


def most_rounds(max_candidates: int, members: int) -> int:
    """How many rounds it takes to try as many candidates as a search may that tries one after another."""
    return max(math.ceil(max_candidates / at_once(members)), FEWEST_ROUNDS)


def next_round(
    candidates: Sequence[Candidate], bounds: LrBounds, widening: float, members: int, seed: int
) -> Generator[Query, Suggestion, list[Proposal]]:
    """What the members try next; nothing where there is nothing left to try.

    Args:
        candidates: What was tried, all of which may have diverged.
        bounds: The range.
        widening: How far the search may leave it, as a factor.
        members: How many there are.
        seed: The search's.
    """
    if not candidates:
        return [Proposal(x, "spread over the range", None) for x in _spread(bounds, widening, at_once(members))]
    found: list[Proposal] = []
    bracketing, known = list(candidates), list(candidates)
    while len(found) < at_once(members):
        further = outward(bracketing, bounds, widening)
        if further is not None:
            proposal = Proposal(further, "a step outward", None)
            bracketing.append(_no_better(candidates, further))
            known.append(bracketing[-1])
        elif best_candidate(candidates) is None:
            break
        else:
            between = bracket(bracketing, bounds, widening)
            answer = yield from ask(known, between, LogExpectedImprovement(), seed=seed)
            reason = "the highest expected improvement between the best and its neighbours"
            proposal = Proposal(answer.log_lr, reason, answer)
            known.append(_imagined(answer.log_lr, answer.expected_loss))
        found.append(proposal)
    return found


def _spread(bounds: LrBounds, widening: float, count: int) -> list[float]:
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
