"""Censored observations: of a diverged probe only f >= t is known.

Notation and shapes (c censored observations, w problems and settings):

    S, mu  [c, c, w], [c, w]  covariance and mean of f at the censored LRs, given all that was seen
    t      [c, w]             the levels that f is known to reach
    v      [c, w]             the softness of a level, a variance

The factor of a censored observation is Phi((f_i - t_i) / sqrt(v_i)). Expectation propagation (Groot and Lucas, 2012,
"GP regression with censored data") replaces it by a Gaussian: a pseudo-observation with target m_i and variance tau_i,
so that everything stays Gaussian regression. What was seen is Gaussian already, so the others are all that has to be
iterated over. One update, with a and b the mean and variance of f_i given all the others, z = (a - t_i) /
sqrt(v_i + b), and r = phi(z) / Phi(z):

    m_i   = a + sqrt(v_i + b) / (z + r)
    tau_i = (v_i + b) / (r (z + r)) - b

which gives f_i the mean and variance that it has under the exact factor (Rasmussen and Williams, 2006, equations 3.58
and 3.59). The evidence is that of the regression with each pseudo-observation's predictive density replaced by the
probability Phi(z) (their equation 3.65). The claim is about f, not about f plus noise: an LR at which training falls
apart is not an unlucky draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from tuner_server.core.search.gaussian_process.elimination import Elimination
from tuner_server.core.search.gaussian_process.standardisation import MAX_NOISE_SD

FloatArray = npt.NDArray[np.float64]

SOFTNESS = 1e-6
"""Softens the step of a censored factor, in units of y^2: keeps its Gaussian, and the covariance, well conditioned."""
_ROUNDS = 6
"""Parallel updates of the censored factors; what is left after them is far below the noise of a search."""
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False, slots=True)
class PseudoObservations:
    """Gaussians in place of the censored factors.

    Attributes:
        target: [c, w] m.
        variance: [c, w] tau.
        log_correction: [w] what the log evidence of the regression lacks.
    """

    target: FloatArray
    variance: FloatArray
    log_correction: FloatArray


def propagate(work: Elimination, threshold: FloatArray, softness: FloatArray) -> PseudoObservations:
    """The pseudo-observations for levels t with softness v.

    Args:
        work: Its columns hold S, and -mu as the right-hand side.
        threshold: [c, w] t.
        softness: [c, w] v.
    """
    given = work.columns.copy()
    target, variance = threshold, softness
    # One alone has no others to wait for.
    for _ in range(_ROUNDS if work.n > 1 else 1):
        mean, cavity = _given_the_others(work, given, target, variance)
        sd = np.sqrt(softness + cavity)
        z = _z(mean, threshold, sd)
        hazard = math.sqrt(2.0 / math.pi) / special.erfcx(z / -math.sqrt(2.0))
        # Near 0 the censoring says nothing, and the pseudo-observation has all but no weight.
        information = np.maximum(hazard * (z + hazard), MAX_NOISE_SD**-2)
        target = mean + sd / (z + hazard)
        variance = sd * sd / information - cavity
    mean, cavity = _given_the_others(work, given, target, variance)
    total = cavity + variance
    log_density = -0.5 * ((target - mean) ** 2 / total + np.log(2.0 * math.pi * total))
    correction = special.log_ndtr(_z(mean, threshold, np.sqrt(softness + cavity))) - log_density
    return PseudoObservations(target, variance, np.add.reduce(correction, 0))


def _given_the_others(
    work: Elimination, given: FloatArray, target: FloatArray, variance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """[c, w] mean and variance of each f_i given the others: Rasmussen and Williams (2006), equation 5.12."""
    if work.n == 1:
        return -given[:, 1], np.maximum(given[:, 0], _LEAST_VARIANCE)
    np.copyto(work.columns, given)
    work.diagonal += variance
    work.target += target
    work.run()
    inverse = work.inverses(np.arange(work.width))
    solved, inverse = inverse[work.n], inverse[: work.n]
    total = 1.0 / np.add.reduce(inverse * inverse / work.diagonal[:, None], 0)
    return target + solved * total, np.maximum(total - variance, _LEAST_VARIANCE)


def _z(mean: FloatArray, threshold: FloatArray, sd: FloatArray) -> FloatArray:
    # Beyond 1e4 standard deviations z + phi/Phi is lost to rounding; beyond 30 above, censoring says nothing.
    return np.clip((mean - threshold) / sd, -1e4, 30.0)
