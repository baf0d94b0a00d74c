"""How the LR goes on where the plan of a run has changed: from where it is up to a peak again, and down to zero."""

from __future__ import annotations

from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.rewarming import steps_of_rise


def to_zero(shape: Shape, lr: float, n_steps: int, *, warmup: int, present_lr: float | None) -> Profile:
    """From the present LR up to `lr`, and from there to zero, in `n_steps` all told.

    Args:
        shape: how the LR falls.
        lr: the peak.
        n_steps: at least 1.
        warmup: steps of a rise from zero to the peak, fewer than `n_steps`; from higher up it takes fewer.
        present_lr: where the run is; None: it has not begun, and rises from zero.
    """
    behind = 0 if present_lr is None else steps_of_rise(present_lr, lr, warmup)
    return Profile.to_zero(shape, lr, n_steps + behind, warmup).after(behind)
