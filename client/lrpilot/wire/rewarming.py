"""Where the LR of a run goes whose end has moved: by the server's plan, and by the client's own without a server. Pure.

Notation: P, the highest LR that was committed; p, the present one; s, the steps so far; R, the steps that are left; E,
how many of these the move of the end has added.
"""

from __future__ import annotations

import math


def peak_of_rest(peak_lr: float, present_lr: float, steps: int, remaining: int, granted: int) -> float:
    """The LR from which the rest of a run decays to zero once its end has moved: p + E / R (P min(1, sqrt(R / s)) - p).

    A run that is over is all at its new beginning (E = R), and goes up to its peak again if as many steps again follow;
    where fewer follow, less high, since what has been gained by cooling down is lost above. A run that goes on for a
    little longer hardly moves. P was the best LR after an extension to twice the length (docs/regret.md); what lies
    between is interpolated.

    Args:
        peak_lr: P; 0: nothing was committed.
        present_lr: p.
        steps: s.
        remaining: R, at least 1.
        granted: E; a run that is made shorter has none.
    """
    top = peak_lr * min(1.0, math.sqrt(remaining / steps)) if steps else peak_lr
    return max(present_lr + min(max(granted, 0) / remaining, 1.0) * (top - present_lr), present_lr)


def steps_of_rise(present_lr: float, lr: float, warmup: int) -> int:
    """How many steps of a linear rise from zero to `lr` lie behind where it has the present LR.

    Args:
        present_lr: where the run is.
        lr: where the rise leads, above 0.
        warmup: the steps of the whole rise.
    """
    return min(int(present_lr / lr * (warmup + 1)), warmup)
