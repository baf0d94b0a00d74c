"""A bound on what any schedule reaches, and the LRs that follow from it.

Schaipp, Hägele, Taylor, Simsekli, Bach 2025, "The surprising agreement between convex optimization theory and
learning-rate scheduling for large model training", arXiv 2501.18965; the bound is that of Defazio et al. 2023. For T
steps of SGD with LRs eta_t on a convex function, gradient norms G_t, and the distance D to the solution:

    Omega = D^2 / (2 sum eta) + (sum eta_t^2 G_t^2) / (2 sum eta)
            + 1/2 sum over k < T of eta_k / S(k+1) Q(k) / S(k),
    S(k) = sum of eta_t, t >= k,    Q(k) = sum of eta_t^2 G_t^2, t >= k

With weights in the place of LRs the three terms are t1, t2 and t3, and the best base LR is sqrt(t1 / (t2 + t3)). The
best base LRs of two shapes have nearly the same ratio for any number of steps, and so an LR that was found with one
shape says which is right with another.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lrpilot.schedules.profiles import as_shape, wsd
from lrpilot.schedules.shape import Shape

STEPS = 400
"""Steps at which shapes are compared; the ratio of two best LRs hardly depends on it."""
TUNED_STEPS = 1000
"""Steps of the run that is made longer, where none are given; what comes out hardly depends on them."""
LONGEST_EXTENSION = 100_000
"""The most steps of the longer run: some ten seconds."""
HALVINGS = 20
"""Halvings of an interval in which a number is looked for."""


class Terms(NamedTuple):
    """The three terms of the bound."""

    distance: float
    noise: float
    last: float

    @property
    def bound(self) -> float:
        """Omega."""
        return math.fsum(self)

    @property
    def best_base_lr(self) -> float:
        """What all LRs are multiplied by to make the bound lowest."""
        return math.sqrt(self.distance / (self.noise + self.last))

    @property
    def best_bound(self) -> float:
        """Omega, with LRs that are multiplied by that."""
        return 2 * math.sqrt(self.distance * (self.noise + self.last))


def terms(lrs: Sequence[float], norms: Sequence[float] | None = None, distance: float = 1.0) -> Terms:
    """The terms of the bound for some LRs.

    Args:
        lrs: of every step; zeros at the end are left out.
        norms: gradient norms of every step; None: they are one.
        distance: D.

    Raises:
        ValueError: no LR is above zero, one is below or not finite, there are not as many norms, or floats can't hold
            the squares.
    """
    if not all(math.isfinite(lr) and lr >= 0 for lr in lrs):
        raise ValueError("convex bound: LRs are finite, and none is below zero")
    n_steps = max((step + 1 for step, lr in enumerate(lrs) if lr > 0), default=0)
    if n_steps == 0 or (norms is not None and len(norms) != len(lrs)):
        raise ValueError(f"convex bound: {n_steps} steps above zero, and norms for {norms and len(norms)}")
    squares = [(lr * (1.0 if norms is None else norms[step])) ** 2 for step, lr in enumerate(lrs[:n_steps])]
    lrs_left = list(itertools.accumulate(reversed(lrs[:n_steps])))[::-1]
    squares_left = list(itertools.accumulate(reversed(squares)))[::-1]
    if not 0 < squares_left[-1] <= squares_left[0] < math.inf:
        raise ValueError("convex bound: the squares of LRs and norms are no positive floats; scale them")
    last = math.fsum(lrs[k] / lrs_left[k + 1] * squares_left[k] / lrs_left[k] for k in range(n_steps - 1))
    return Terms(distance**2 / (2 * lrs_left[0]), squares_left[0] / (2 * lrs_left[0]), last / 2)


def wsd_bound(total_steps: int, cooldown_from: int, norm: float = 1.0, distance: float = 1.0) -> float:
    """The best bound, in closed form, of an LR that is constant and falls linearly to zero from a step on.

    With N = T - T0 + 1 steps of the fall, the last of them at 1 / N of the LR, the sums of the bound telescope. The
    form that the paper has bounds them once more, and lies well above where the fall is short.

    Args:
        total_steps: T.
        cooldown_from: T0, the first step of the fall, from 1 to T; it still has the whole LR.
        norm: of all gradients.
        distance: D.

    Raises:
        ValueError: the fall begins before the first step or after the last.
    """
    if not 1 <= cooldown_from <= total_steps:
        raise ValueError(f"cooldown_from: {cooldown_from} is not between 1 and {total_steps}, the number of steps")
    fall, both = total_steps - cooldown_from + 1, total_steps + cooldown_from
    noise = ((cooldown_from - 1) + (fall + 1) * (2 * fall + 1) / (6 * fall)) / both
    held = math.fsum(1 / (both - 2 * k) for k in range(1, cooldown_from))
    held -= (fall - 1) * (cooldown_from - 1) / (3 * fall * both)
    falling = 2 * (fall - 1) / (3 * fall) + math.fsum(1 / i for i in range(1, fall)) / fall
    return distance * norm * math.sqrt(4 / both * (noise + held + falling))


@functools.lru_cache(maxsize=256)
def best_base_lr(shape: Shape, total_steps: int = STEPS) -> float:
    """The best highest LR of a shape over so many steps, in units of D / G."""
    return terms([shape.at(step, total_steps) for step in range(total_steps)]).best_base_lr


def transfer(lr: float, from_shape: Shape | str, to_shape: Shape | str) -> float:
    """The LR for one shape that is as good a choice as `lr` is for another, by the convex bound.

    Args:
        lr: the highest LR of the shape that it was found with.
        from_shape: that shape.
        to_shape: the shape that an LR is wanted for.

    Raises:
        ValueError: the LR is not above zero or not finite, a text is of no shape, or a shape has no LRs.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"transfer: an LR of {lr!r}; give one above 0")
    return lr * best_base_lr(as_shape(to_shape)) / best_base_lr(as_shape(from_shape))


class Extension(NamedTuple):
    """Two ways of going on with a run that has not cooled down yet, at the LR that was right for its former length."""

    lr_factor: float
    """The LR is multiplied by this from where the cooldown was to begin, and the cooldown keeps its share; or"""
    cooldown: float
    """the LR stays, and the cooldown has this share of all steps. 1: the run is too long for that."""


@functools.lru_cache(maxsize=64)
def extension(factor: float, *, share: float = 0.2, total_steps: int = TUNED_STEPS) -> Extension:
    """How a run with a plateau and a linear cooldown goes on to `factor` times its steps, by the convex bound.

    In both ways the LR of the run so far is the best one for the longer run, too.

    Args:
        factor: the new number of steps over the old one, at least 1.
        share: of the steps, for the cooldown that was planned.
        total_steps: the old number, on which what comes out hardly depends; times `factor` at most 100,000.

    Raises:
        ValueError: one of them is out of its range.
    """
    if not (factor >= 1 and 0 < share < 1 and total_steps >= 1 and factor * total_steps <= LONGEST_EXTENSION):
        raise ValueError(
            f"extension: {total_steps} steps times {factor:g} with a cooldown of {share:g}; give a factor from 1 on, a "
            f"share between 0 and 1, and at most {LONGEST_EXTENSION} steps for both together"
        )
    base, longer = best_base_lr(wsd(share), total_steps), round(factor * total_steps)
    turn = total_steps - int(share * total_steps)

    weights = [wsd(share).at(step, longer) for step in range(longer)]

    def lowered(lr_factor: float) -> float:
        return terms(weights[:turn] + [lr_factor * weight for weight in weights[turn:]]).best_base_lr

    return Extension(
        # A lower LR later on lets the base LR be higher, and so does a longer cooldown.
        lr_factor=_where(lambda part: -lowered(part), -base, 1e-3, 1.0),
        cooldown=_where(lambda part: best_base_lr(wsd(part), longer), base, share, 1.0),
    )


def _where(rising: Callable[[float], float], value: float, low: float, high: float) -> float:
    """The place from `low` to `high` at which a rising function has a value; the nearer end if there is none."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2
