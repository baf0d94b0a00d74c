"""Where the LR of a run goes whose end has moved: by the server's plan, and by the client's own without a server. Pure.

Notation: P, the highest LR that was committed; s, the steps so far; R, the steps that are left.
"""

from __future__ import annotations


def peak_of_rest(peak_lr: float, present_lr: float, steps: int, remaining: int) -> float:
    """The LR from which the rest of a run decays to zero: P R / (s + R), or the present one if it is higher.

    It lies on the line from the run's peak to its new end. A run that had come below that, as one that has decayed to
    zero, rises to it again; one that is above goes on from where it is. In runs that were extended to twice their
    length at their end or in their middle, or by a quarter, it ended 0.1% to 0.7% above the best (docs/regret.md).

    Args:
        peak_lr: P; 0: nothing was committed.
        present_lr: where the run is.
        steps: s.
        remaining: R.
    """
    if steps + remaining == 0:
        return present_lr
    return max(min(peak_lr * remaining / (steps + remaining), peak_lr), present_lr)  # not above it by rounding


def steps_of_rise(present_lr: float, lr: float, warmup: int) -> int:
    """How many steps of a linear rise from zero to `lr` lie behind where it has the present LR.

    Args:
        present_lr: where the run is.
        lr: where the rise leads; 0, with a shape that begins there and rises by itself: all of it lies behind.
        warmup: the steps of the whole rise.
    """
    if lr <= 0:
        return warmup
    return min(int(present_lr / lr * (warmup + 1)), warmup)
