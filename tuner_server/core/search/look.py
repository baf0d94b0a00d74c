"""A look at the LR of a run that is under way: is it so wrong that a few short branches show it?

Branches of a few steps, which decay to zero, say little of which LR is best over the rest of a run: a low one is ahead
after any short decay, since the noise of a high one has not gone yet, or since the run has cooled down before. They do
show a catastrophe: an LR at which a network whose data or weights have changed blows up, or one that is far too low. So
a branch at another LR has to be ahead by a good part of all that the run has gained so far, and otherwise the LR stays.

Notation: x, the LR in question; the unit of a lead is what the run has gained from its beginning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tuner_server.core.messages import Candidate, Lr, Value

STEP = math.sqrt(10.0)
"""The LRs that are compared are so far apart, as a factor."""
LEAD_BELOW = 0.2
"""The lead of a lower LR from which on it counts. On seven workloads the lead at a sound plateau was at most 0.05,
where a decay had ended 0.07; where the LR was a catastrophe it was 0.4 and more."""
LEAD_ABOVE = 0.1
"""The lead of a higher LR from which on it counts: what favours low LRs speaks against it, so less is enough."""
MOST_MOVES = 2
"""Steps down in one look."""
BRANCHES = 3
"""Branches of a look that leaves the LR where it is."""


class Look(Value):
    """One look, which is under way."""

    lr: Lr
    """x"""
    upward: bool
    """Whether a higher LR is tried, too."""

    def next(self, branches: Sequence[Candidate], gained: float) -> float | None:
        """The LR of the next branch; None: the look is over.

        Args:
            branches: those so far: at x, then below it; then above it, or further down.
            gained: what the run has gained so far.
        """
        if len(branches) < 2:
            return self.lr / STEP ** len(branches)
        moves = self._moves(branches, gained)
        if moves == len(branches) - 1 and moves < MOST_MOVES:
            return self.lr / STEP ** (moves + 1)
        if moves == 0 and self.upward and len(branches) == BRANCHES - 1 and not branches[0].diverged:
            return self.lr * STEP
        return None

    def chosen(self, branches: Sequence[Candidate], gained: float) -> float:
        """The LR that the branches speak for: x, unless the evidence against it is strong."""
        if all(branch.diverged for branch in branches):
            return min((branch.lr for branch in branches), default=self.lr * STEP) / STEP
        above = branches[-1]
        if above.lr > self.lr and branches[0].loss - above.loss > LEAD_ABOVE * gained:
            return above.lr
        return self.lr / STEP ** self._moves(branches, gained)

    def _moves(self, branches: Sequence[Candidate], gained: float) -> int:
        """How many steps down the lower branches speak for."""
        moves = 0
        lower = [branch for branch in branches[1:] if branch.lr < self.lr]
        for here, below in zip(branches, lower, strict=False):
            if below.diverged or not here.loss - below.loss > LEAD_BELOW * gained:
                break
            moves += 1
        return moves
