"""Signs that a probe is about to diverge, read off the measures of its steps before the loss shows it.

They follow from what Wortsman et al. 2023 ("Small-scale proxies for large-scale Transformer training instabilities",
arXiv 2309.14322) found before divergences: growing logits, and updates that are no longer small. A warning is evaluated
where the client looks for a divergence anyway, over all steps of the probe so far. Both sides read it alike, and need
nothing but the standard library.

Notation: `values` are those of one measure, one for each step from the first one on; NaN, or infinite, where a step has
none that is a number.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
import math
from collections.abc import Iterator, Sequence

SMOOTHED_STEPS = 10
"""Steps over which the logarithm of a rising measure is averaged."""
_WEIGHT = 2.0 / (SMOOTHED_STEPS + 1)
MAX_ROW = 1000
"""The most steps in a row that a warning takes."""
FIT_POINTS = 5
"""Points of a growth, each at half as many steps as the next one."""
_FEWEST_STEPS = 2 ** (FIT_POINTS - 1)


class WarningRule(enum.StrEnum):
    """What a warning looks for; see `WarningRule` of the wire contract."""

    RISE = "rise"
    """The measure, smoothed, is `level` times its own median since the warm-up, and rises."""
    ABOVE = "above"
    """The measure is above `level`."""
    BELOW = "below"
    """The measure is below `level`."""
    GROWTH = "growth"
    """The measure grows so that it is above `level` at the end of the probe."""


@dataclasses.dataclass(frozen=True, slots=True)
class EarlyWarning:
    """A sign that is looked for in one measure.

    Attributes:
        measure: its name.
        rule: what it has to do.
        level: by how much; above 0. With RISE, a factor above 1.
        row: for how many steps in a row, 1 to `MAX_ROW`.
        ends: whether the probe ends there; if not, it is only told.
    """

    measure: str
    rule: WarningRule
    level: float
    row: int
    ends: bool = True

    def __post_init__(self) -> None:
        """Refuses what can't be looked for. Raises: ValueError: a level or a row makes no sense."""
        least = 1.0 if self.rule is WarningRule.RISE else 0.0
        if not (math.isfinite(self.level) and self.level > least):
            raise ValueError(f"warning: the level of {self.rule} is above {least:g}, not {self.level:g}")
        if not 1 <= self.row <= MAX_ROW:
            raise ValueError(f"warning: 1 to {MAX_ROW} steps in a row, not {self.row}")

    def first(self, values: Sequence[float], warmup: int, n_steps: int) -> int | None:
        """The step (from 0) at which the values first show it; None: they don't.

        Args:
            values: of the steps so far.
            warmup: the first steps, in which nothing counts.
            n_steps: of the whole probe.
        """
        in_row = 0
        for step, shown in self._shown(values, warmup, n_steps):
            in_row = in_row + 1 if shown else 0
            if in_row >= self.row:
                return step
        return None

    def words(self, step: int) -> str:
        """What was seen up to a step, as a clause of a sentence."""
        what = {
            WarningRule.RISE: f"rose above {self.level:g} times its median",
            WarningRule.ABOVE: f"was above {self.level:g}",
            WarningRule.BELOW: f"was below {self.level:g}",
            WarningRule.GROWTH: f"was on its way above {self.level:g}",
        }[self.rule]
        row = "1 step" if self.row == 1 else f"{self.row} steps"
        return f"{self.measure} {what} for {row}, up to step {step + 1}"

    def _shown(self, values: Sequence[float], warmup: int, n_steps: int) -> Iterator[tuple[int, bool]]:
        """The steps after the warm-up, and whether each shows it."""
        if self.rule is WarningRule.RISE:
            return _rises(values, warmup, math.log(self.level))
        if self.rule is WarningRule.GROWTH:
            return _grows(values, warmup, n_steps, self.level)
        above = self.rule is WarningRule.ABOVE
        steps = range(min(warmup, len(values)), len(values))
        return ((step, values[step] > self.level if above else values[step] < self.level) for step in steps)


def extrapolated(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The value at x of the quadratic with the least squares of distances from at least three points.

    It is expanded in polynomials that are orthogonal over the points, so that no equations have to be solved.
    """
    n = len(xs)
    mean = math.fsum(xs) / n
    firsts = [own - mean for own in xs]
    square = math.fsum(own * own for own in firsts)
    skew = math.fsum(own**3 for own in firsts) / square

    def second(own: float) -> float:
        return (own - mean - skew) * (own - mean) - square / n

    seconds = [second(own) for own in xs]
    linear = math.fsum(p * y for p, y in zip(firsts, ys, strict=True)) / square
    curved = math.fsum(p * y for p, y in zip(seconds, ys, strict=True)) / math.fsum(p * p for p in seconds)
    return math.fsum(ys) / n + linear * (x - mean) + curved * second(x)


def _rises(values: Sequence[float], warmup: int, margin: float) -> Iterator[tuple[int, bool]]:
    """Whether the smoothed logarithm is by `margin` above its median since the warm-up, and above the value before."""
    smoothed: float | None = None
    since: list[float] = []
    for step, value in enumerate(values):
        before = smoothed
        if 0 < value < math.inf:
            log = math.log(value)
            smoothed = log if smoothed is None else smoothed + _WEIGHT * (log - smoothed)
        if step < warmup or smoothed is None:
            continue
        bisect.insort(since, smoothed)
        middle = len(since) // 2
        median = since[middle] if len(since) % 2 else (since[middle - 1] + since[middle]) / 2
        yield step, before is not None and smoothed > before and smoothed - median > margin


def _grows(values: Sequence[float], warmup: int, n_steps: int, level: float) -> Iterator[tuple[int, bool]]:
    """Whether the measure's logarithm, a quadratic of that of the steps, leads above the level at the last step."""
    for step in range(max(warmup, _FEWEST_STEPS - 1), len(values)):
        steps = [(step + 1) / 2**halvings for halvings in reversed(range(FIT_POINTS))]
        points = [(math.log2(own), values[round(own) - 1]) for own in steps]
        if not all(0 < value < math.inf for _, value in points):
            yield step, False
            continue
        xs, ys = [x for x, _ in points], [math.log10(value) for _, value in points]
        grown = extrapolated(xs, ys, math.log2(max(n_steps, step + 1)))
        yield step, ys[-1] > ys[0] and grown > math.log10(level)
