"""The LR of a run whose end is not known: a plateau that falls slowly, from which a short cooldown leads to zero.

Whenever it is cooled down, the run should be about as good as one that was planned for that length. So the plateau has
at each step the LR of a run that goes on for as long again: with s steps so far and a first stage of t steps, that of
a run of N(s) = 2 s + t steps. Its stages are t, 2 t, 4 t steps and so on, so that N doubles from one to the next.

The best LR of a run falls with its length as a power of it, with an exponent e (Bjorck et al. 2024):

    lr(s) = lr(s0) (N(s0) / N(s))^e
"""

from __future__ import annotations

import math

from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.rewarming import steps_of_rise

from tuner_server.core.messages import Lr, Steps, Value

LONGEST_STAGE = 10_000
"""Steps of a stage at most: a divergence takes back to its beginning."""
RISE = 100
"""Steps in which an LR rises that has to: from zero after the beginning at most, and after every change."""


class Plateau(Value):
    """A plateau, by one point of it."""

    lr: Lr
    """lr(s0)"""
    at_step: Steps
    """s0, in committed steps."""
    first_stage: Steps
    """t"""
    exponent: float
    """e"""

    def lr_at(self, step: int) -> float:
        """The LR with so many steps before it, lr(s)."""
        now, then = 2 * step + self.first_stage, 2 * self.at_step + self.first_stage
        return self.lr * math.pow(then / now, self.exponent)

    def through(self, lr: float, step: int) -> Plateau:
        """The plateau that has another LR at a step."""
        return self.model_copy(update={"lr": lr, "at_step": step})

    def stage_length(self, step: int) -> int:
        """Steps of the stage that begins there."""
        return min(step + self.first_stage, LONGEST_STAGE)

    def profile(self, step: int, n_steps: int, *, warmup: int, present_lr: float | None) -> Profile:
        """The LRs of so many steps from there on, up from the present one where that is lower.

        Args:
            step: committed steps so far.
            n_steps: at least 1.
            warmup: steps of a rise from zero, fewer than `n_steps`; from higher up it takes fewer.
            present_lr: where the run is; None: it has not begun.
        """
        start = self.lr_at(step)
        behind = 0 if present_lr is None else steps_of_rise(present_lr, start, warmup)
        end = self.lr_at(step + n_steps)
        return Profile(Shape.EXPONENTIAL, start, end, n_steps + behind, warmup=warmup).after(behind)
