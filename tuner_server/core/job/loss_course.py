"""The validations of a job's committed steps, and where in its schedule each of them lies. Pure.

It is kept for jobs that have a `stop_when`, and of a bounded size: of many validations every second of the older ones
is left out. For each, the areas that the annealing law knows (Tissue et al. 2024, arXiv 2408.11029) are kept and not
the LRs: S1, the area under the LR, and S2, what its falls have brought by then, for several momenta. A warm-up counts
as if its LR were at the peak, as in the published fit.

Long stretches are counted in blocks of steps, so that the work does not grow with a report's length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from lrpilot.wire.profile import Profile

from tuner_server.core.laws.going_on import Areas
from tuner_server.core.messages import Report, Value

MEMORIES = (10, 20, 50, 100, 200, 500, 1000)
"""Steps over which a fall of the LR takes effect, 1 / (1 - lambda), one for each momentum."""
MOST_POINTS = 60
NEWEST_POINTS = 20
"""So many are never left out."""
MOST_BLOCKS = 400
"""Of a stretch of steps; each has the LR of its middle."""


class Place(Value):
    """A moment of the committed steps, in terms of the annealing law."""

    step: int = 0
    """Committed steps of the run so far."""
    lr: float | None = None
    """The LR of the last one."""
    walked: float = 0.0
    """S1"""
    falling: tuple[float, ...] = (0.0,) * len(MEMORIES)
    """What one step adds to S2."""
    annealed: tuple[float, ...] = (0.0,) * len(MEMORIES)
    """S2"""

    def after(self, profile: Profile, n_steps: int, begin: int = 0) -> Place:
        """The moment after steps `begin` to `begin` + `n_steps` of a profile."""
        place = self
        for lr, size in _blocks(profile, n_steps, begin):
            place = place.onward(lr, size)
        return place

    def onward(self, lr: float, size: int) -> Place:
        """The moment after so many further steps at one LR."""
        fall = (lr if self.lr is None else self.lr) - lr
        falling, annealed = [], []
        for memory, before, so_far in zip(MEMORIES, self.falling, self.annealed, strict=True):
            momentum = 1.0 - 1.0 / memory
            first = momentum * before + fall
            last = first * math.pow(momentum, size - 1)
            falling.append(last)
            annealed.append(so_far + (first - momentum * last) * memory)
        return Place(
            step=self.step + size,
            lr=lr,
            walked=self.walked + lr * size,
            falling=tuple(falling),
            annealed=tuple(annealed),
        )

    def settled(self) -> Place:
        """The moment once the LR is at zero, and every fall of it has taken full effect."""
        lr = self.lr or 0.0
        rest = [
            memory * ((1.0 - 1.0 / memory) * falling + lr)
            for memory, falling in zip(MEMORIES, self.falling, strict=True)
        ]
        annealed = tuple(so_far + more for so_far, more in zip(self.annealed, rest, strict=True))
        return self.model_copy(update={"lr": 0.0, "falling": (0.0,) * len(MEMORIES), "annealed": annealed})

    def areas(self, momenta: int) -> Areas:
        """The areas alone, for so many of the shorter memories."""
        return Areas(self.walked, self.annealed[:momenta])


class Point(Value):
    """A validation."""

    place: Place
    loss: float


class LossCourse(Value):
    """The validations so far."""

    now: Place = Place()
    points: tuple[Point, ...] = ()
    opening: float | None = None
    """The first validation of all, that of a probe's beginning included: nearly the untrained model's."""

    def after(self, report: Report, profile: Profile | None) -> LossCourse:
        """The course once the steps of a report, which had such LRs, are committed."""
        if profile is None:
            return self
        now, points, done = self.now, list(self.points), 0
        for validation in report.validations:
            now, done = now.after(profile, validation.step - done, done), validation.step
            if math.isfinite(validation.loss) and now.walked > 0:
                points.append(Point(place=now, loss=validation.loss))
        now = now.after(profile, report.n_steps - done, done)
        return self.opened(report).model_copy(update={"now": now, "points": _thinned(points)})

    def opened(self, report: Report) -> LossCourse:
        """The course that knows the first validation of all."""
        if self.opening is not None:
            return self
        losses = (validation.loss for validation in report.validations)
        return self.model_copy(update={"opening": next(filter(math.isfinite, losses), None)})

    @property
    def anew(self) -> LossCourse:
        """The course after a change of the data, the batches or the model: what was seen says nothing of what comes."""
        return LossCourse(opening=self.opening)


def _blocks(profile: Profile, n_steps: int, begin: int) -> Iterator[tuple[float, int]]:
    """The LR and the size of each block of steps."""
    size = max(-(-n_steps // MOST_BLOCKS), 1)
    for first in range(begin, begin + n_steps, size):
        length = min(size, begin + n_steps - first)
        middle = first + length // 2
        warming = profile.offset + middle < profile.warmup
        yield profile.start_lr if warming else profile.lr(middle), length


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    """No more than the most points: every second of the older ones."""
    if len(points) > MOST_POINTS:
        points = [*points[:-NEWEST_POINTS:2], *points[-NEWEST_POINTS:]]
    return tuple(points)
