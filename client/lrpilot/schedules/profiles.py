"""The shapes by functions: each gives a `Shape`, which has its weight at any part of a run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from lrpilot.schedules.checks import between
from lrpilot.schedules.shape import Shape

HIGHEST_REX = 1.0
"""The alpha with which REX would be constant."""


def as_shape(shape: Shape | str) -> Shape:
    """A shape, by itself or by its text. Raises: ValueError: it is neither, or the text is of none."""
    return shape if isinstance(shape, Shape) else Shape.parse(shape)


def constant() -> Shape:
    """The LR stays where it is."""
    return Shape.CONSTANT


def linear() -> Shape:
    """The LR falls by the same amount at every step."""
    return Shape.LINEAR


def polynomial(power: float = 2.0) -> Shape:
    """The LR falls as a power of what is left: (1 - z)^power."""
    return Shape("polynomial", (power,))


def cosine() -> Shape:
    """The LR falls along half a wave (Loshchilov, Hutter 2017, arXiv 1608.03983)."""
    return Shape.COSINE


def mirror_cosine() -> Shape:
    """The LR falls along the cosine, reflected at the line: 2 (1 - z) - cosine."""
    return Shape("mirror_cosine")


def one_minus_sqrt() -> Shape:
    """The LR falls as 1 - sqrt(z) (Hägele et al. 2024, arXiv 2405.18392)."""
    return Shape("one_minus_sqrt")


def one_minus_square() -> Shape:
    """The LR falls as 1 - z^2 (Hägele et al. 2024, arXiv 2405.18392)."""
    return Shape("one_minus_square")


def exponential(floor: float = 0.1) -> Shape:
    """The LR falls by the same factor at every step, to a floor: floor^z. Raises: ValueError: the floor is zero."""
    if not 0 < floor <= 1:
        raise ValueError(
            f"exponential: floor {floor:g} is not above 0 and at most 1; an exponential never reaches zero"
        )
    return floored(Shape.EXPONENTIAL, floor)


def half_life(lives: float = 4.0) -> Shape:
    """The LR halves so many times (MiniCPM: Hu et al. 2024, arXiv 2404.06395)."""
    return Shape("half_life", (lives,))


def rex(beta: float = 1.0, *, alpha: float | None = None) -> Shape:
    """REX: (1 - z) / (1/2 + (1 - beta z) / 2) (Chen, Wolfe, Kyrillidis 2022, arXiv 2107.04197).

    Args:
        beta: 1 in the paper, 0.9 in code that circulates.
        alpha: the same family as (1 - z) / (1 - alpha z), from 0, a line, to 1, constant; given, it counts.

    Raises:
        ValueError: beta or alpha is out of its range.
    """
    if alpha == HIGHEST_REX:
        return Shape.CONSTANT
    return Shape("rex", (beta if alpha is None else 2 * alpha,))


def step(marks: Iterable[float] = (0.5, 0.75), factor: float = 0.1) -> Shape:
    """The LR falls by a factor at every mark, a share of the run. Raises: ValueError: the marks don't ascend."""
    marks = tuple(marks)
    return Shape("step", (factor, *marks)) if marks else Shape.CONSTANT


def one_cycle(rise: float = 0.3, div: float = 25.0, final_div: float = 1e4) -> Shape:
    """The LR rises to its peak, then falls below where it began (Smith 2018, arXiv 1803.09820; OneCycleLR's defaults).

    Args:
        rise: the share of the run in which it rises.
        div: the peak over the first LR.
        final_div: the first LR over the last one.

    Raises:
        ValueError: one of them is out of its range.
    """
    return Shape("one_cycle", (rise, div, final_div))


def two_point(d1: float, d2: float, d3: float, y1: float, *, floor: float = 0.0) -> Shape:
    """Lines through two points between the peak and the end (the near-optimal schedules of arXiv 2603.10301).

    The first is at x1 = d1 and has the weight y1, the second at x2 = x1 + d2 (1 - x1) with d3 y1; the end has `floor`.
    A warm-up before is `warmed`. All of them are from 0 to 1.

    Raises:
        ValueError: one of them is out of its range.
    """
    for name, value in (("d1", d1), ("d2", d2), ("d3", d3), ("y1", y1), ("floor", floor)):
        between(value, 0.0, 1.0, f"two_point: {name}")
    x2 = d1 + d2 * (1 - d1)
    knots = [(0.0, 1.0), (d1, y1), (x2, d3 * y1), (1.0, floor)]
    # Of several at the same place the first and the last one make the jump.
    places = sorted({done for done, _ in knots})
    at = {place: [knot for knot in knots if knot[0] == place] for place in places}
    return Shape.points(knot for place in places for knot in dict.fromkeys((at[place][0], at[place][-1])))


def power_scheduler(
    batch_size: float, total_tokens: float, *, a: float = 4.6, b: float = -0.51, highest: float = 0.02
) -> Shape:
    """The power scheduler's LR, min(highest, batch_size a tokens^b), over `highest` (Shen et al. 2024).

    "Power scheduler: a batch size and token number agnostic learning rate scheduler", arXiv 2408.13359.

    Args:
        batch_size: in sequences, as in the paper.
        total_tokens: of the run.
        a: the factor of the power.
        b: its exponent, below zero.
        highest: the LR that is not exceeded.

    Raises:
        ValueError: one of them is out of its range.
    """
    if not (min(batch_size, total_tokens, a, highest) > 0 > b):
        raise ValueError(f"power_scheduler: batch_size, total_tokens, a and highest are above 0, and b {b:g} below")
    # In logarithms, in which no number is too large.
    log_share = (math.log(highest) - math.log(batch_size) - math.log(a)) / b - math.log(total_tokens)
    return Shape("power_scheduler", (math.exp(min(log_share, 0.0)), -b))


def infinite(
    rise: float = 0.01, cooldown: float = 0.6, annealing: float = 0.1, *, constant: float = 0.55, low: float = 0.1
) -> Shape:
    """The infinite schedule of a run whose end is known (Singh et al. 2025, arXiv 2503.02844); see `InfiniteSchedule`.

    Args:
        rise: the share of the run in which the LR rises from zero.
        cooldown: the share after that, in which it falls to `constant` along a cosine.
        annealing: the last share, in which it falls to `low` by the same factor at every step.
        constant: of the plateau, over the peak.
        low: the last LR over the peak.

    Raises:
        ValueError: one of them is out of its range.
    """
    return Shape("infinite", (rise, cooldown, annealing, constant, low))


def wsd(share: float = 0.1, cooldown: Shape | str = Shape.LINEAR) -> Shape:
    """The LR stays, then cools down over the last `share` of the run (warmup-stable-decay, without its warm-up).

    Hu et al. 2024, arXiv 2404.06395; Hägele et al. 2024, arXiv 2405.18392.

    Raises:
        ValueError: the share is not from 0 to 1.
    """
    return _framed("wsd", (share,), cooldown)


def warmed(shape: Shape | str, share: float = 0.05, low: float = 0.0) -> Shape:
    """The LR rises over the first `share` of the run from a part `low`, then follows the shape over the rest.

    Raises:
        ValueError: the share is not from 0 to below 1, or `low` not from 0 to 1.
    """
    return _framed("warmed", (share, low), shape)


def floored(shape: Shape | str, floor: float = 0.1) -> Shape:
    """The shape leads to a part `floor` of the peak instead of zero. Raises: ValueError: it is not from 0 to 1."""
    return _framed("floored", (floor,), shape)


def rewarmed(share: float = 0.01, floor: float = 0.1) -> Shape:
    """From the floor up along a line, then down to it along a cosine: at a new data set of continual training.

    Ibrahim et al. 2024, "Simple and scalable strategies to continually pre-train large language models", arXiv
    2403.08763.

    Args:
        share: of the new data's steps, in which the LR rises; none to 2% made no difference in the end.
        floor: the lowest LR over the peak.

    Raises:
        ValueError: one of them is out of its range.
    """
    return warmed(floored(Shape.COSINE, floor), share, floor)


def sampled(shape: Shape | str, marks: Iterable[float]) -> Shape:
    """The shape, read at the start and at some marks alone, and held in between (the sampling rates of REX's paper).

    Args:
        shape: what is read.
        marks: shares of the run, ascending, above 0 and below 1; such as (0.5, 0.75).

    Raises:
        ValueError: the marks don't ascend, or there are more than 256.
    """
    read, places = as_shape(shape), [0.0, *marks, 1.0]
    if any(not a < b for a, b in itertools.pairwise(places)):
        raise ValueError(f"sampled: the marks {places[1:-1][:8]} don't ascend between 0 and 1")
    return Shape.points(
        knot for begin, end in itertools.pairwise(places) for knot in _stair(begin, end, read.weight(begin))
    )


def anneal_from(lr: float, steps: int, shape: Shape | str = Shape.LINEAR) -> tuple[float, ...]:
    """The LRs of an annealing from an LR to where a shape leads, at each of so many steps.

    Raises:
        ValueError: the LR is negative or not finite, there are no steps, or the shape is none.
    """
    if not (math.isfinite(lr) and lr >= 0 and isinstance(steps, int) and steps >= 1):
        raise ValueError(f"anneal_from: an LR of {lr!r} over {steps!r} steps; give one that is not below 0, over some")
    read = as_shape(shape)
    return tuple(lr * read.at(step, steps) for step in range(steps))


def _framed(name: str, own: tuple[float, ...], shape: Shape | str) -> Shape:
    """A frame around a shape."""
    inner = as_shape(shape)
    return Shape(f"{name}/{inner.name}", (*own, *inner.parameters))


def _stair(begin: float, end: float, weight: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The two ends of a stair."""
    return (begin, weight), (end, weight)
