"""The LR of a run whose end is not known: a plateau that falls slowly, from which a short cooldown leads to zero.

Whenever it is cooled down, the run should be about as good as one that was planned for that length. So the plateau has
at each step the LR of a run that goes on for as long again: with s steps since it began and a first stage of t steps,
that of a run of N(s) = 2 s + t steps. Its stages are t, 2 t, 4 t steps and so on, so that N doubles from one to the
next.

The best LR of a run falls with its length as a power of it, with an exponent e (Bjorck et al. 2024):

    lr(s) = lr(s0) (N(s0) / N(s))^e
"""

from __future__ import annotations

import math

from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.messages import Lr, Steps, Value

LONGEST_STAGE = 10_000
"""Steps of a stage at most: a divergence takes back to its beginning."""
RISE = 100
"""Steps in which an LR rises that has to: from zero after the beginning at most, and after every change."""


class Plateau(Value):
    """A plateau, by one point of it. Steps are committed ones of the run."""

    lr: Lr
    """lr(s0)"""
    at_step: Steps
    """s0, counted from the run's first step."""
    begins: Steps
    """The step of the run with which it begins: 0, or where the data or the model were changed."""
    first_stage: Steps
    """t"""
    exponent: float
    """e"""

    def lr_at(self, step: int) -> float:
        """The LR of a step of the run."""
        return self.lr * math.pow(self._length(self.at_step) / self._length(step), self.exponent)

    def through(self, lr: float, step: int) -> Plateau:
        """The plateau that has another LR at a step."""
        return self.model_copy(update={"lr": lr, "at_step": step})

    def stage_length(self, step: int) -> int:
        """Steps of the stage that begins there."""
        return min(step - self.begins + self.first_stage, LONGEST_STAGE)

    def _length(self, step: int) -> int:
        """The length of the run that a step of it suits, N(s)."""
        return 2 * max(step - self.begins, 0) + self.first_stage

    def profile(self, step: int, n_steps: int, warmup: int) -> Profile:
        """The LRs of so many steps from a step of the run on, after a rise from zero of `warmup` of them."""
        return Profile(Shape.EXPONENTIAL, self.lr_at(step), self.lr_at(step + n_steps), n_steps, warmup=warmup)
