"""The search from fresh weights: to a bracket, and then closer.

Notation: x, the natural log of a peak LR; d, the spacing of the first candidates in x.

From the middle of the range, steps of d in the direction that improves until the best candidate has a worse one on
either side; then some refinements between these by a Gaussian process and log expected improvement. It may leave the
range. Where earlier jobs of the family left a prior, it begins with a head start (`core.search.head_start`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator
from typing import Protocol, Self, TypeVar

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.messages import Asked, Candidate, Decision, PosteriorCurve, Value
from tuner_server.core.search.acquisition import LogExpectedImprovement, LowerConfidenceBound
from tuner_server.core.search.bracket import Widening, bracket, limits, outward, spacing
from tuner_server.core.search.head_start import FINE_BRACKET, FIRST_CANDIDATES, HeadStart
from tuner_server.core.search.observations import Answer, ask
from tuner_server.core.search.prior import Optimum, Prior
from tuner_server.core.search.suggest import Query, Suggestion


class OpeningState(Value):
    """A base for the state of a policy that has such a search: what it remembers between two candidates."""

    candidates: tuple[Candidate, ...] = ()
    """Those of the search that is under way, or was the last one."""
    bracketed_after: int | None = None
    """How many candidates it took until the best had a worse one on either side."""
    head_start: HeadStart | None = None
    """None: there was no prior that this search could use."""
    optimum: Optimum | None = None
    """What the search found; None before its end, and where it was cut too short to tell."""

    @property
    def misled(self) -> bool:
        """Whether there was a prior, and it was no good."""
        return self.head_start is not None and self.head_start.misled(self.candidates)

    @property
    def bracketing(self) -> tuple[Candidate, ...]:
        """The candidates between which the search looks."""
        return self.candidates if self.head_start is None else tuple(self.head_start.bracketing(self.candidates))

    @property
    def lost(self) -> bool:
        """Whether all that was tried diverged."""
        return all(candidate.diverged for candidate in self.candidates)


S = TypeVar("S", bound=OpeningState)


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """An LR that the search tries next, and what a decision tells of it."""

    lr: float
    reason: str
    posterior: PosteriorCurve | None = None
    asked: Asked | None = None

    def decision(self, stage: int) -> Decision:
        """The decision to try it."""
        return Decision(stage=stage, lr=self.lr, reason=self.reason, posterior=self.posterior, asked=self.asked)


class OpeningOptions(Protocol):
    """The options of a policy that such a search goes by; they are described at `Opening`."""

    @property
    def refinements(self) -> int:
        """Candidates after the best one is bracketed."""

    @property
    def max_candidates(self) -> int:
        """Candidates in all, at most."""

    @property
    def widening(self) -> float:
        """How far it may leave the range, as a factor."""

    @property
    def length_exponent(self) -> float:
        """How fast the best peak LR falls with length."""


@dataclasses.dataclass(frozen=True, slots=True)
class Opening:
    """The search of one job.

    Attributes:
        refinements: candidates after the best one is bracketed.
        max_candidates: candidates in all, at most; one more where there is a prior.
        widening: how far it may leave the range, as a factor.
        length_exponent: brings the prior's probes to the length of these.
        moving_steps: steps of a probe that move the weights.
        seed: the job's.
        bounds: the range.
        prior: what earlier jobs of the family tell.
    """

    refinements: int
    max_candidates: int
    widening: Widening
    length_exponent: float
    moving_steps: int
    seed: int
    bounds: LrBounds
    prior: Prior | None

    @classmethod
    def of(
        cls, options: OpeningOptions, moving_steps: int, config: JobConfig, bounds: LrBounds, prior: Prior | None
    ) -> Self:
        """The search of a job whose policy has such options."""
        return cls(
            refinements=options.refinements,
            max_candidates=options.max_candidates,
            widening=Widening.of(options.widening, bounded=config.lr_bounds is not None),
            length_exponent=options.length_exponent,
            moving_steps=moving_steps,
            seed=config.seed,
            bounds=bounds,
            prior=prior,
        )

    def next(self, state: S, affords: Callable[[int], bool]) -> Generator[Query, Suggestion, tuple[S, Trial | None]]:
        """The next candidate: of the head start, a step outward, or a refinement; None: the search is over.

        Args:
            state: the policy's.
            affords: whether the run has room for so many more probes.
        """
        if not state.candidates:
            state = state.model_copy(update={"head_start": self._head_start(affords)})
        done, head_start = len(state.candidates), state.head_start
        spent = done >= self._most_candidates(state) or not affords(1)
        if head_start is not None and not state.misled and not spent:
            ahead = head_start.next(state.candidates, limits(self.bounds, self.widening))
            if ahead is not None:
                reason = "what earlier jobs of the family found" if not done else "beside it, to check it"
                return state, Trial(math.exp(ahead), reason)
        further = outward(state.bracketing, self.bounds, self.widening)
        if further is None and state.bracketed_after is None:
            state = state.model_copy(update={"bracketed_after": done})
        if spent or (further is None and (state.lost or self._fine(state))):
            return state, None
        if state.bracketed_after is None and further is not None:
            beyond = "" if self.bounds.min <= math.exp(further) <= self.bounds.max else ", beyond the range"
            return state, Trial(math.exp(further), f"a step outward{beyond}")
        if state.bracketed_after is not None and done >= state.bracketed_after + self.refinements:
            return state, None
        found = yield from ask(state.candidates, self._between(state), LogExpectedImprovement(), seed=self.seed)
        reason = "the highest expected improvement between the best and its neighbours"
        return state, Trial(found.lr, reason, found.posterior, found.asked)

    def best(self, state: S) -> Generator[Query, Suggestion, tuple[S, Answer]]:
        """The LR with the lowest expected loss, of candidates that did not all diverge.

        A search that was cut off before it could tell a slope leads nowhere that was not tried: one loss is the same
        everywhere.
        """
        lowest = LowerConfidenceBound(kappa=0.0)
        found = yield from ask(state.candidates, self._between(state), lowest, seed=self.seed, min_separation=0.0)
        if len(state.candidates) >= FIRST_CANDIDATES:
            optimum = Optimum(log_lr=found.log_lr, probe_steps=self.moving_steps)
            return state.model_copy(update={"optimum": optimum}), found
        tried = [math.log(candidate.lr) for candidate in state.candidates]
        return state, dataclasses.replace(found, log_lr=min(max(found.log_lr, min(tried)), max(tried)))

    def _between(self, state: OpeningState) -> tuple[float, float]:
        return bracket(state.bracketing, self.bounds, self.widening)

    def _head_start(self, affords: Callable[[int], bool]) -> HeadStart | None:
        """Where the prior has the search begin; None without one, or where it could not be checked."""
        if self.prior is None or not affords(2):
            return None
        return HeadStart.of(
            self.prior,
            expected=self.prior.at(self.moving_steps, self.length_exponent),
            middle=math.log(self.bounds.middle),
            limits=limits(self.bounds, self.widening),
            d=spacing(self.bounds),
        )

    def _most_candidates(self, state: OpeningState) -> int:
        most, head_start = self.max_candidates, state.head_start
        if head_start is None:
            return most
        return head_start.most_candidates(state.candidates, self.refinements, most)

    def _fine(self, state: OpeningState) -> bool:
        """Whether a head start has led to a bracket that needs no refinement."""
        if state.head_start is None or state.misled:
            return False
        low, high = self._between(state)
        return high - low <= FINE_BRACKET
