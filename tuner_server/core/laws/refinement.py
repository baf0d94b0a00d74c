"""The schedule that the gradient norms of a run ask for.

For the last iterate of stochastic gradient descent on convex functions, linear decay is best against the worst case,
in which all gradient norms are alike. Where the norms along a run are known, the schedule that minimises the same
bound has a closed form: a step counts the less, the larger its gradient (Defazio, Cutkosky, Mehta and Mishchenko 2023,
"When, why and how much? Adaptive learning rate scheduling by refinement", arXiv 2310.07831, theorem 3 and algorithm 1).

Notation: g_t, the norm of the gradient at step t of T, smoothed; w_t, the weight of the step, g_t^-p with p = 2 and the
L2 norm for SGD, p = 1 and the L1 norm for Adam. The shape is

    w_t (sum of w_s for s > t)

over its highest value, so it doesn't change with the unit of the norms, and its last value is 0. Where the weights
are a power of what is left of the run, (1 - z)^b, it is (1 - z)^(2b + 1); where they are alike, linear decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tuner_server.core.laws.optimizer_kind import OptimizerKind

FloatArray: TypeAlias = npt.NDArray[np.float64]

SHARE = 0.1
"""The part of a run over which norms are smoothed by a median."""
POINTS = 10_000
"""A run of fewer norms than this is brought to so many before it is smoothed."""
OWN_NUMBER = 1_000
"""A run of fewer norms than this is smoothed as it is."""
FEWEST_NORMS = 10
"""Nothing is concluded from fewer norms: the schedule is linear decay."""
FIRST_NORMS = 5
"""The first norm becomes the median of so many."""
NARROWEST = 5
"""The width of the median in runs of fewer than 40 norms, where the share says less: one norm alone never counts."""
LOWEST_NORM = 1e-6
"""Norms are taken for no less than this part of their median: a weight is a power of -1 or -2."""
COMPARED_PARTS = 3
"""The ratio of two rows of norms is compared between so many parts of them."""
MOST_CHANGE = 1.5
"""A refinement while the run goes on changes no later LR by more than this factor either way."""


def linear(n_steps: int) -> FloatArray:
    """Linear decay from 1 at the first step to 0 at the last one."""
    return np.linspace(1.0, 0.0, n_steps) if n_steps > 1 else np.zeros(n_steps)


def shape_of(weights: npt.ArrayLike) -> FloatArray:
    """The closed form: each weight times the sum of those after it, over the highest of these."""
    w = np.asarray(weights, dtype=np.float64)
    w = w / w.max()
    after = np.concatenate([np.cumsum(w[:0:-1])[::-1], [0.0]])
    shape: FloatArray = w * after
    shape /= shape.max()
    return shape


def completed(norms: npt.ArrayLike) -> FloatArray | None:
    """Norms with what is missing interpolated, and none far below their median; None: too few are there.

    A norm that is zero, negative or not finite is missing. The first one becomes the median of the first few: as it
    holds before the start, it would otherwise be most of what it is smoothed over.
    """
    values = np.asarray(norms, dtype=np.float64)
    there = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(there) < FEWEST_NORMS:
        return None
    filled = np.interp(np.arange(len(values)), there, values[there])
    floored: FloatArray = np.maximum(filled, LOWEST_NORM * np.median(values[there]))
    floored[0] = np.median(floored[:FIRST_NORMS])
    return floored


def width_of(n: int, share: float = SHARE) -> int:
    """The width of the median for `n` norms, an odd number."""
    return 2 * (int(share * n) // 2) + 1


def smoothed(norms: FloatArray, width: int | None = None) -> FloatArray:
    """The running median of norms, as many values as there are norms; None: it is as wide as the run's share says.

    Past the end the norms are mirrored, past the start the first one holds.
    """
    width = width or max(width_of(len(norms)), NARROWEST)
    padded = np.pad(norms, (0, 2 * width), mode="reflect")
    median: FloatArray = ndimage.median_filter(padded, size=width, mode="nearest")[: len(norms)]
    return median


def brought_to(values: FloatArray, n: int) -> FloatArray:
    """Values that lie evenly over a run, at `n` points that do so too."""
    if len(values) == n:
        return values
    resampled: FloatArray = np.interp(np.linspace(0.0, 1.0, n), np.linspace(0.0, 1.0, len(values)), values)
    return resampled


def refined(norms: npt.ArrayLike, kind: OptimizerKind, n_steps: int | None = None) -> FloatArray:
    """The shape of a schedule that the norms of a whole run ask for: its highest value is 1, its last one 0.

    Args:
        norms: of every step; see `completed` for what may be missing.
        kind: of the run's optimizer; says what norms these are.
        n_steps: the steps of the schedule; None: one for each norm.
    """
    known = completed(norms)
    n_steps = len(np.asarray(norms)) if n_steps is None else n_steps
    if known is None:
        return linear(n_steps)
    shape = shape_of(smoothed(for_smoothing(known)) ** -float(kind.power))
    shape = brought_to(shape, n_steps)
    highest = shape.max()
    return shape / highest if highest > 0 else shape


def for_smoothing(norms: FloatArray) -> FloatArray:
    """Norms at as many points as they are smoothed at."""
    return brought_to(norms, POINTS) if OWN_NUMBER <= len(norms) < POINTS else norms


def refined_on_the_way(
    present: npt.ArrayLike, behind: int, kind: OptimizerKind, guess: Sequence[float] = ()
) -> FloatArray:
    """The shape of a run that is under way, refined from here on.

    It goes on where the present one is, leaves that by no more than `MOST_CHANGE` either way, and is never above the
    peak. What lies behind stays as it was. The closed form has, at each step, the weights of that step and of those
    after it alone, and a factor of all of them changes nothing: so of the norms that lie behind it needs none.

    Args:
        present: the shape in force, at evenly spaced points of the run; its highest value is 1, the last one 0.
        behind: how many of the points lie behind.
        kind: of the run's optimizer.
        guess: what the norms are thought to be, evenly over the whole run, in any unit; empty: they stay as they are,
            and the rest is linear decay.
    """
    old = np.asarray(present, dtype=np.float64)
    if behind >= len(old) - 1:
        return old
    weights = np.ones(len(old))
    if len(guess):
        weights = smoothed(brought_to(np.asarray(guess, dtype=np.float64), len(old))) ** -float(kind.power)
    wanted = shape_of(weights[behind:])
    if wanted[0] <= 0:
        return old
    wanted = wanted * (old[behind] / wanted[0])
    rest = np.clip(wanted, old[behind:] / MOST_CHANGE, np.minimum(old[behind:] * MOST_CHANGE, 1.0))
    return np.concatenate([old[:behind], rest])


def drift(known: FloatArray, other: FloatArray) -> float:
    """How far the ratio of two rows of norms moves, as a factor, at least 1; their units don't matter.

    It is that of its medians over parts of them, as norms of single steps are noise.
    """
    medians = [float(np.median(part)) for part in np.array_split(known / other, COMPARED_PARTS) if len(part)]
    return max(medians) / min(medians)


def knots(shape: FloatArray, most: int, fixed: int = 0, tolerance: float = 1e-3) -> list[tuple[float, float]]:
    """A few points of a shape, as pairs of the part of the way and the value, with straight lines between them.

    Points are added where the lines are furthest from the shape, until they are near enough or there are `most`. The
    point with the index `fixed` is one of them.
    """
    done = np.linspace(0.0, 1.0, len(shape))
    chosen = sorted({0, fixed, len(shape) - 1})
    while len(chosen) < most:
        error = np.abs(np.interp(done, done[chosen], shape[chosen]) - shape)
        furthest = int(error.argmax())
        if error[furthest] <= tolerance * shape.max():
            break
        chosen = sorted([*chosen, furthest])
    return [(float(done[i]), float(shape[i])) for i in chosen]
