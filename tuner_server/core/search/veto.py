"""Whether an LR that was good before is still bearable after a change of the data, the batches or the weights.

In the middle of a run a short probe can't say which LR is best: it prefers LRs that are 3 to 10 times too low, however
it is judged (docs/regret.md). The highest LR that the run has committed is within some per cent of the best one after
most changes. What a probe does show is a catastrophe: an LR at which what was learnt is lost. So that LR is tried, and
a lower one beside it, on the same batches; it is refused if the lower one is far better, and then the next lower one is
looked at in the same way. Nothing higher is tried: evidence for it was never sound.

Notation: l and h, what a lower and the next higher probe end at; s, the loss before them; G, how far the losses of the
run had fallen before the change.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from tuner_server.core.messages import Candidate, Value

SPACING = math.sqrt(10.0)
"""Each candidate is lower by this factor."""
MOST = 4
"""Candidates at most: the lowest one is taken if all above it were refused."""
MARGIN = 0.2
"""h is refused if h - l is more than this part of the larger one of s - l and G, or h - s than this part of G. In 45
states after changes h - l was below 0.06 of that where the LR was bearable, and above 0.25 where it was not
(docs/regret.md)."""


class Veto(Value):
    """One such search."""

    wanted: float
    """The LR that is tried first."""
    probe_steps: int
    """Steps of a probe that move the weights."""
    gained: float
    """G; 0 where nothing is known."""
    because: str
    """What led to it, for people."""

    def next(self, candidates: Sequence[Candidate], start: float | None) -> float | None:
        """The LR that is tried next; None: enough is known.

        Args:
            candidates: what was tried, in order.
            start: s; None: not known.
        """
        done = len(candidates)
        if done < 2 or (done < MOST and self._refused(candidates[-2], candidates[-1], start)):
            return self.wanted / SPACING**done
        return None

    def chosen(self, candidates: Sequence[Candidate], start: float | None) -> float:
        """The highest LR that was not refused; the one that was wanted where there was no room to try two."""
        if len(candidates) < 2:
            refused = bool(candidates) and candidates[0].diverged
            return self.wanted / SPACING if refused else self.wanted
        for higher, lower in itertools.pairwise(candidates):
            if not self._refused(higher, lower, start):
                return higher.lr
        last = candidates[-1]
        return last.lr / SPACING if last.diverged else last.lr

    def _refused(self, higher: Candidate, lower: Candidate, start: float | None) -> bool:
        """Whether a probe has shown that its LR is not bearable."""
        if higher.diverged or lower.diverged:
            return higher.diverged
        gain = 0.0 if start is None else start - lower.loss
        lost = 0.0 if start is None or self.gained <= 0 else higher.loss - start
        # Of two ruined probes the higher one need not be worse: one that is far above the start is refused by itself.
        return higher.loss - lower.loss > MARGIN * max(gain, self.gained, 0.0) or lost > MARGIN * self.gained
