"""The beginning of a search for which earlier jobs say where its optimum may lie.

The prior is tried, then checked against the middle of the range, where the search would otherwise begin:

- the prior is no better than the middle: the search goes on from the middle as if there had been no prior, which has
  cost one probe;
- it is better: LRs a step to either side of it are tried, with a step that the prior's sd gives, finer than the usual
  one, and from the best of them outward until it is bracketed, as usual. A bracket of LRs so close needs no refinement;
  a wider one is refined. There may be as many candidates as the shortest search without a prior has, and one.

So no prior costs more than one probe, whatever the losses are, if what diverges at an LR does so at higher ones too.

Notation as in `core.policies.budget`: x, the natural log of a peak LR; d, the usual spacing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pydantic

from tuner_server.core.messages import Candidate, Value
from tuner_server.core.search.prior import Prior

MIN_SPACING = math.log(2.0)
"""The finer spacing at least: the losses of closer LRs differ by less than their noise."""
SPACING_SDS = 1.0
"""The finer spacing in standard deviations: the optimum then lies between the two outer LRs two times in three."""
SNAP = 0.5
"""A prior closer to the middle than this part of the finer spacing is taken for the middle: nothing to check."""
NEAR = 1.5
"""A middle within so many finer spacings of the prior serves as the LR on that side."""
FINE_BRACKET = math.log(8.0) * (1.0 + 1e-9)
"""A bracket up to this wide is not refined: three LRs in it tell where the optimum is to within 25% or so."""
FIRST_CANDIDATES = 3
"""Candidates that the shortest search without a prior takes to a bracket."""


class HeadStart(Value):
    """The head start of one search. Its first candidates are `at` and `middle`, or one where these are the same."""

    at: float = pydantic.Field(allow_inf_nan=False)
    """The prior's x."""
    middle: float = pydantic.Field(allow_inf_nan=False)
    """The x of the middle of the range."""
    spacing: float = pydantic.Field(gt=0, allow_inf_nan=False)
    """The distance in x between the LRs around the prior."""

    @classmethod
    def of(
        cls, prior: Prior, expected: float, middle: float, limits: tuple[float, float], d: float
    ) -> HeadStart | None:
        """The head start that a prior gives; None where the limits leave a search little to choose from.

        Args:
            prior: The prior, of which the sd is used.
            expected: The prior's x for this search.
            middle: x of the middle of the range.
            limits: The lowest and the highest x that may be tried.
            d: The usual spacing.
        """
        lowest, highest = limits
        # Less room, and a search without a prior may be shorter than FIRST_CANDIDATES.
        if min(highest - middle, middle - lowest) < d + MIN_SPACING:
            return None
        spacing = min(max(SPACING_SDS * prior.sd, MIN_SPACING), max(d, MIN_SPACING))
        at = min(max(expected, lowest), highest)
        return cls(at=middle if abs(at - middle) < SNAP * spacing else at, middle=middle, spacing=spacing)

    @property
    def checked(self) -> bool:
        """Whether the middle is tried as well."""
        return self.at != self.middle

    def misled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether the prior was tried and turned out no better than the middle.

        A prior that lies above a middle that diverged has misled, too: then the one or the other was chance.
        """
        if self.in_doubt(candidates):
            return False
        if not self.checked:
            return candidates[0].diverged
        prior, middle = candidates[:2]
        return not prior.loss < middle.loss or (middle.diverged and self.at > self.middle)

    def in_doubt(self, candidates: Sequence[Candidate]) -> bool:
        """Whether it is still to be seen what the prior is worth."""
        return len(candidates) < 1 + self.checked

    def bracketing(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The candidates between which to search: not a prior that was no good, which stays an observation."""
        return candidates[1:] if self.checked and self.misled(candidates) else candidates

    def next(self, candidates: Sequence[Candidate], limits: tuple[float, float]) -> float | None:
        """The next x of the head start; None: it is over, or the prior is not the best any more."""
        if not candidates:
            return self.at
        if self.in_doubt(candidates):
            return self.middle
        first, *others = (candidate.loss for candidate in candidates)
        if not all(first < other for other in others):
            return None
        tried = len(candidates) - (2 if self.checked else 1)
        sides = self._sides(limits)
        return sides[tried] if tried < len(sides) else None

    def most_candidates(self, candidates: Sequence[Candidate], refinements: int, max_candidates: int) -> int:
        """How many candidates there may be: one more than a search without a prior has, or than the shortest one."""
        if self.in_doubt(candidates) or self.misled(candidates):
            return max_candidates + self.checked
        return min(FIRST_CANDIDATES + refinements, max_candidates) + 1

    def _sides(self, limits: tuple[float, float]) -> list[float]:
        """The x around the prior: first the one away from the middle, whose side was not looked at."""
        away = 1.0 if self.at >= self.middle else -1.0
        sides = [self.at + away * self.spacing]
        if not self.checked or abs(self.at - self.middle) > NEAR * self.spacing:
            sides.append(self.at - away * self.spacing)
        return [x for x in sides if limits[0] <= x <= limits[1]]
