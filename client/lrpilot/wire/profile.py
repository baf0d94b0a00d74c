"""How the learning rate moves within a directive.

Both sides read an LR off a profile, and a schedule must come out the same bit for bit on either: this module is the
only place that turns a profile into LRs; `lrpilot.schedules` has the formulas. Both need nothing but the standard
library.

Notation: a profile covers `length` steps, the first `warmup` of which lead up to it; position p counts from its start,
p = offset for the first step of a directive that begins in the middle of it.
"""

from __future__ import annotations

import dataclasses
import math

from lrpilot.schedules.shape import Shape

__all__ = ["Profile", "Shape"]


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """LRs of the first parameter group over `length` steps, from position `offset` on.

    The first `warmup` steps rise linearly to the LR that the shape begins with; the shape covers the steps after them.
    Its end, which is `end_lr` with most shapes, is the LR of the step after the last, so that a linear decay to zero
    has no step that stands still; it holds from there on.

    Attributes:
        shape: of the way from `start_lr` to `end_lr`.
        start_lr: the LR where the shape's weight is one, at least 0: after the warm-up, or the peak of one that turns.
        end_lr: the LR where the weight is zero, at least 0.
        length: steps, warm-up included; at least 1.
        offset: steps that lie behind the first one.
        warmup: steps of the warm-up, fewer than `length`.
    """

    shape: Shape
    start_lr: float
    end_lr: float
    length: int
    offset: int = 0
    warmup: int = 0

    def __post_init__(self) -> None:
        """Refuses a profile that has no LR at some step.

        Raises:
            ValueError: an LR is negative or not finite, the length is not positive, or an exponential touches zero.
        """
        lrs = (self.start_lr, self.end_lr)
        if not all(math.isfinite(lr) and lr >= 0 for lr in lrs):
            raise ValueError(f"profile: LRs must be finite and not negative, not {lrs}")
        if self.length < 1 or self.offset < 0:
            raise ValueError(f"profile: length {self.length} or offset {self.offset} is too small")
        if not 0 <= self.warmup < self.length:
            raise ValueError(f"profile: a warm-up of {self.warmup} steps does not fit into {self.length}")
        if fault := self.shape.way.fault(*lrs):
            raise ValueError(f"profile: {fault}; use a linear one")

    @classmethod
    def constant(cls, lr: float, n_steps: int) -> Profile:
        """A profile that stays at one LR for `n_steps`."""
        return cls(Shape.CONSTANT, lr, lr, n_steps)

    @classmethod
    def to_zero(cls, shape: Shape, lr: float, n_steps: int, warmup: int = 0) -> Profile:
        """From `lr` to zero in `n_steps`, warm-up included; at `lr` all the time if the shape does not move."""
        return cls(shape, lr, 0.0 if shape.way.moves else lr, n_steps, warmup=warmup)

    @property
    def peak(self) -> float:
        """The higher one of its two LRs; no step of it has an LR above that."""
        return max(self.start_lr, self.end_lr)

    @property
    def first_lr(self) -> float:
        """The LR that the shape begins with, after the warm-up."""
        return self.shape.way.lr(self.start_lr, self.end_lr, 0.0)

    @property
    def last_lr(self) -> float:
        """The LR of the step after the last, and of all that follow."""
        return self.shape.way.lr(self.start_lr, self.end_lr, 1.0)

    @property
    def stands(self) -> bool:
        """Whether all its steps, from the first one on, have the same LR."""
        return not self.shape.way.moves and self.offset >= self.warmup

    def lr(self, step: int) -> float:
        """The LR of step `step` (from 0) of a directive with this profile."""
        return self._lr_at(self.offset + step)

    def highest_lr(self, n_steps: int) -> float | None:
        """The highest LR of the first `n_steps` steps of such a directive; None: there are none."""
        if n_steps == 0:
            return None
        return max(map(self._lr_at, self._tops(self.offset, self.offset + n_steps - 1)))

    @property
    def top(self) -> int:
        """The position of the first step that has the highest LR of all."""
        return min(self._tops(0, self.length), key=lambda position: (-self._lr_at(position), position))

    def _tops(self, first: int, last: int) -> set[int]:
        """Positions from `first` to `last` of which one has the highest LR: between two of them the LR doesn't turn."""
        tops = {first, last, self.warmup}
        for turn in self.shape.way.turns:
            # A jump may be right before or right after the turn.
            about = self.warmup + math.floor(turn * (self.length - self.warmup))
            tops.update(range(about - 1, about + 3))
        return {position for position in tops if first <= position <= last}

    def _lr_at(self, position: int) -> float:
        if position < self.warmup:
            return self.first_lr * (position + 1) / (self.warmup + 1)
        done = min((position - self.warmup) / (self.length - self.warmup), 1.0)
        return self.shape.way.lr(self.start_lr, self.end_lr, done)

    def after(self, n_steps: int) -> Profile:
        """What is left of this profile after `n_steps`; its LRs are the same bit for bit."""
        return dataclasses.replace(self, offset=self.offset + n_steps)
