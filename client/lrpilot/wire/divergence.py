"""Losses have diverged when one is not finite, or several in a row are above a limit.

Any training has a bad batch now and then, and to undo committed steps is expensive. What has truly diverged stays
high.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

BAD_LOSSES = 5
"""Losses in a row above the limit that make a divergence: a few batches more cost little, and so many are no chance."""


class DivergenceWatch:
    """Looks at the losses of a directive, one after the other."""

    def __init__(self, limit: float = math.inf) -> None:
        self._limit = limit
        self._above = 0

    def sees(self, loss: float) -> bool:
        """Takes the next loss; whether it shows a divergence."""
        self._above = self._above + 1 if loss > self._limit else 0
        return not math.isfinite(loss) or self._above >= BAD_LOSSES


def first_divergence(losses: Iterable[float], limit: float = math.inf) -> int | None:
    """The index of the first loss that shows a divergence, if there is one."""
    watch = DivergenceWatch(limit)
    return next((i for i, loss in enumerate(losses) if watch.sees(loss)), None)
