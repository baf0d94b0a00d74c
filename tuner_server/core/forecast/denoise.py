"""Outlier removal by smoothing splines, as published AutoLRS code does it.

Notation:
    n       number of losses; x = 0, 1, ..., n - 1.
    kept    (m,) indices of the losses that were not dropped, ascending.
    smooth  (n,) the last spline, evaluated at every x.

Source: AutoLRS (Jin et al., ICLR 2021, the section on loss forecasting) and its published code.
The smoothing of the splines is absolute (sum of squared residuals <= number of points): for losses
around 1 a spline is nearly always one parabola.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import splev, splrep

from tuner_server.core.forecast.base import FloatArray, Objective

_DEGREE = 2

# A parabola needs three points; one of the four may be dropped.
MIN_POINTS = _DEGREE + 2

_TRAINING_ROUNDS = 10
_TRAINING_SHARE = 0.03


@dataclass(frozen=True, eq=False)
class Denoised:
    """Which losses were kept, and the spline through them."""

    kept: NDArray[np.intp]
    smooth: FloatArray


def denoise(losses: FloatArray, objective: Objective) -> Denoised:
    """Drops outliers from the first half of a series and smooths what is left.

    Training loss: ten rounds, each of which looks at the 3% of the remaining points (rounded) that
    lie farthest from a spline through them. Validation loss: one round that looks at one point. Of
    these, the ones that lie before the middle are dropped: the late losses, which count most for
    a forecast, all stay.

    Args:
        losses: (n,), n >= `MIN_POINTS`, finite and of magnitude up to about 1e2.
        objective: decides the rounds.
    """
    x = np.arange(losses.size, dtype=np.float64)
    # The position of the middle is that of the full series, also when points have gone.
    middle = (losses.size - 1) // 2
    kept = np.arange(losses.size)
    rounds = _TRAINING_ROUNDS if objective is Objective.TRAINING else 1
    for _ in range(rounds):
        count = 1 if objective is Objective.VALIDATION else round(_TRAINING_SHARE * kept.size)
        if count == 0:
            break
        at, seen = x[kept], losses[kept]
        residuals = np.abs(_spline(at, seen, at) - seen)
        suspects = np.argsort(residuals)[-count:]
        stays = np.ones(kept.size, np.bool_)
        stays[suspects[suspects < middle]] = False
        kept = kept[stays]
    return Denoised(kept, _spline(x[kept], losses[kept], x))


def _spline(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    # `UnivariateSpline(x, y, k=2)` with its default smoothing, through the interface that can be
    # told not to warn: when smoothing stops early, what it has is good enough.
    (tck, _, _, _) = splrep(x, y, k=_DEGREE, s=x.size, full_output=True, quiet=True)
    smooth: FloatArray = np.asarray(splev(at, tck), dtype=np.float64)
    return smooth
