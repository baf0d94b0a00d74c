"""When a loss has diverged: it is not finite, or above a limit."""

from __future__ import annotations

import math
from collections.abc import Iterable


def is_divergent(loss: float, limit: float = math.inf) -> bool:
    """Whether a loss is not finite or above the limit."""
    return not math.isfinite(loss) or loss > limit


def until_divergence(losses: Iterable[float], limit: float = math.inf) -> list[float]:
    """The losses up to the first divergent one, which is included."""
    kept = []
    for loss in losses:
        kept.append(loss)
        if is_divergent(loss, limit):
            break
    return kept
