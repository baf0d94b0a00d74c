"""Nelder-Mead in one dimension.

The published forecaster's answers are those of scipy's `fmin` from 0, local minima and all, so the same steps are taken
here (Nelder and Mead 1965; reflection 1, expansion 2, contraction and shrinkage 1/2). In one dimension the simplex is a
pair and the arithmetic is a handful of floats: scipy's arrays cost four times what the function does. A test compares
the two step by step.
"""

from collections.abc import Callable

_MAX_ITERATIONS = 200
_FIRST_STEP = 0.00025
"""The first step of scipy from a start at 0."""


def minimise_from_zero(function: Callable[[float], float], tolerance: float) -> float:
    """A local minimum of `function`, found from 0.

    Args:
        function: finite everywhere.
        tolerance: the search ends when the pair and its values lie closer than this.
    """
    best, worst = 0.0, _FIRST_STEP
    f_best, f_worst = function(best), function(worst)
    for _ in range(_MAX_ITERATIONS):
        if f_worst < f_best:
            best, worst, f_best, f_worst = worst, best, f_worst, f_best
        if abs(worst - best) <= tolerance and abs(f_worst - f_best) <= tolerance:
            break
        step = best - worst
        reflected = best + step
        f_reflected = function(reflected)
        if f_reflected < f_best:
            expanded = best + 2.0 * step
            f_expanded = function(expanded)
            grown = f_expanded < f_reflected
            worst, f_worst = (expanded, f_expanded) if grown else (reflected, f_reflected)
            continue
        outside = f_reflected < f_worst
        contracted = best + (0.5 if outside else -0.5) * step
        f_contracted = function(contracted)
        if f_contracted <= f_reflected if outside else f_contracted < f_worst:
            worst, f_worst = contracted, f_contracted
        else:
            worst = best - 0.5 * step
            f_worst = function(worst)
    return best if f_best <= f_worst else worst
