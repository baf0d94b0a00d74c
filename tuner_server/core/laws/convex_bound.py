"""A bound on the loss at the end of any LR schedule, from convex optimisation, and the best LR that follows from it.

Schaipp, Haegele, Taylor, Simsekli, Bach 2025, "The surprising agreement between convex optimization theory and
learning-rate scheduling for large model training", ICML 2025, arXiv 2501.18965; the bound is from Defazio, Cutkosky,
Mehta, Mishchenko 2023, "Optimal linear decay learning rate schedules and further refinements", arXiv 2310.07831.

T steps of SGD on a convex function, with LRs eta_t, gradients of norm G_t and a distance D from the start to the
solution, end within Omega of the lowest loss:

    Omega  = D^2 / (2 S_1) + R_1 / (2 S_1) + 1/2 * sum over k = 1..T-1 of eta_k / S_(k+1) * R_k / S_k
    S_k    = sum of eta_t, t = k..T
    R_k    = sum of eta_t^2 * G_t^2, t = k..T

Networks are not convex; that the bound ranks their schedules is the paper's finding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tuner_server.core.laws.lr_path import FloatArray

USUAL_STEPS = 400
"""Steps over which schedules are compared where no length is named: ratios of their best LRs hardly depend on it."""


class Terms(NamedTuple):
    """The three terms of the bound."""

    distance: float
    """What is left of the way to the solution; it falls as 1 / LR."""
    noise: float
    """What gradients add, on average over steps; it rises with the LR."""
    last: float
    """What the last step adds to the average one's; it rises with the LR, too."""

    @property
    def bound(self) -> float:
        """Their sum."""
        return math.fsum(self)


class BestLr(NamedTuple):
    """The LR that makes the bound of a schedule smallest, and that bound."""

    lr: float
    bound: float


def omega(lrs: npt.ArrayLike, norms: npt.ArrayLike = 1.0, distance: float = 1.0) -> Terms:
    """The bound of a schedule, term by term.

    Args:
        lrs: (T,) the LR of every step; zeros at the end move nothing, and don't count.
        norms: (T,) the norm of each gradient, or one for all.
        distance: from the start to the solution.

    Raises:
        ValueError: no LR is positive, or one is negative or not finite.
    """
    eta = np.atleast_1d(np.asarray(lrs, dtype=np.float64))
    if not (np.isfinite(eta).all() and (eta >= 0).all() and eta.any()):
        raise ValueError("lrs: LRs must be finite, not negative and not all zero")
    n = int(np.flatnonzero(eta)[-1]) + 1
    squares = (eta * np.asarray(norms, dtype=np.float64))[:n] ** 2
    eta = eta[:n]
    ahead, squares_ahead = _sums_ahead(eta), _sums_ahead(squares)
    last = np.sum(eta[:-1] / ahead[1:] * squares_ahead[:-1] / ahead[:-1]) / 2
    return Terms(distance**2 / (2 * float(ahead[0])), float(squares_ahead[0] / ahead[0]) / 2, float(last))


def best_base(weights: npt.ArrayLike, norms: npt.ArrayLike = 1.0, distance: float = 1.0) -> BestLr:
    """The best factor for the LRs of a schedule.

    Args:
        weights: (T,) the schedule; with a peak of 1 the factor is the best peak LR.
        norms: as for `omega`.
        distance: as for `omega`.

    Raises:
        ValueError: as `omega`.
    """
    terms = omega(weights, norms, distance)
    rising = terms.noise + terms.last
    return BestLr(math.sqrt(terms.distance / rising), 2 * math.sqrt(terms.distance * rising))


def transfer_factor(source: npt.ArrayLike, target: npt.ArrayLike) -> float:
    """By what the best peak LR of one schedule is multiplied for that of another, both being weights with a peak of 1.

    Raises:
        ValueError: as `omega`.
    """
    return best_base(target).lr / best_base(source).lr


def wsd_bound(n_steps: int, cooldown_from: int, norm: float = 1.0, distance: float = 1.0) -> float:
    """The best bound, in closed form, of an LR that is constant and falls linearly to zero from a step on.

    With N = T - T0 + 1 steps of the fall, the last of them at 1 / N of the LR, the sums of the bound telescope. The
    form that the paper has bounds them once more, and lies well above where the fall is short.

    Args:
        n_steps: T.
        cooldown_from: T0, the first step of the fall, from 1 to T; it still has the whole LR.
        norm: of all gradients.
        distance: from the start to the solution.

    Raises:
        ValueError: the fall begins before the first step or after the last.
    """
    if not 1 <= cooldown_from <= n_steps:
        raise ValueError(f"cooldown_from: {cooldown_from} is not between 1 and {n_steps}, the number of steps")
    fall, both = n_steps - cooldown_from + 1, n_steps + cooldown_from
    noise = ((cooldown_from - 1) + (fall + 1) * (2 * fall + 1) / (6 * fall)) / both
    held = math.fsum(1 / (both - 2 * k) for k in range(1, cooldown_from))
    held -= (fall - 1) * (cooldown_from - 1) / (3 * fall * both)
    falling = 2 * (fall - 1) / (3 * fall) + math.fsum(1 / i for i in range(1, fall)) / fall
    return distance * norm * math.sqrt(4 / both * (noise + held + falling))


def _sums_ahead(values: FloatArray) -> FloatArray:
    """The sum of each value and those after it."""
    return np.cumsum(values[::-1])[::-1]
