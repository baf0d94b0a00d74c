"""The hyperparameters of the surrogate: a fixed grid with its prior, and which of its settings carry the weight.

Notation and shapes (h settings):

    l, s, sigma [h]        lengthscale, output scale and noise scale (all standard deviations or lengths)

Nothing is fitted: predictions are averaged over the settings, proportional to likelihood times prior. This is the fully
Bayesian treatment of Snoek et al. (2012), section 3.2, with a grid in place of their slice sampling: three
hyperparameters and one input dimension are few enough.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tuner_server.core.search.gaussian_process.kernel import rate

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]

_LENGTHSCALES = np.geomspace(0.05, 1.6, 8)
"""Lengthscales from half a tick of a 10-candidate search to a curve that hardly bends inside the bounds."""
_OUTPUT_SCALES = np.geomspace(0.5, 4.0, 4)
"""Scales around 1, which is that of standardised losses."""
_NOISE_SCALES = np.geomspace(0.01, 1.0, 4)
"""Scales from noise that doesn't matter to a loss that is all noise."""

# Log-normal priors as (median, standard deviation of the logarithm). Search ranges span some three to four decades and
# the bowl of a loss about one of them; standardised losses have a scale of about 1, more where they are a part of a
# larger curve; noise is unknown to within an order of magnitude.
_LENGTHSCALE_PRIOR = (0.3, 0.75)
_OUTPUT_SCALE_PRIOR = (1.0, 1.0)
_NOISE_SCALE_PRIOR = (0.05, 1.25)

_KEPT_WEIGHT = 0.99
MAX_KEPT = 32
"""Bounds the cost of the posterior. Reached only with few observations, when many settings are about as likely."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Every combination of the hyperparameters; lengthscales change slowest.

    Attributes:
        lengthscales: [g] the lengthscales, each of them once.
        rates: [g] the kernel's rate for each of them.
        borders: [g + 1] where the settings of each lengthscale begin, and where all end.
        output_variance: [h] s^2.
        variance: [h] s^2 + sigma^2.
        log_prior: [h] logarithm of the prior weight, up to a constant.
        membership: [g, h] 1 where the setting has the lengthscale, else 0.
        spread: [g, h] s^2 where the setting has the lengthscale, else 0: correlations [..., g] times this are the
            covariances [..., h], exactly, since all other terms of a sum are 0.
    """

    lengthscales: FloatArray
    rates: FloatArray
    borders: IndexArray
    output_variance: FloatArray
    variance: FloatArray
    log_prior: FloatArray
    membership: FloatArray
    spread: FloatArray

    @classmethod
    def of(cls, lengthscales: FloatArray, output_scales: FloatArray, noise_scales: FloatArray) -> Self:
        """The grid of all combinations of these scales."""
        index = np.indices((len(lengthscales), len(output_scales), len(noise_scales))).reshape(3, -1)
        lengthscale, output_scale, noise_scale = lengthscales[index[0]], output_scales[index[1]], noise_scales[index[2]]
        membership = (np.arange(len(lengthscales))[:, None] == index[0]).astype(np.float64)
        return cls(
            lengthscales=lengthscales,
            rates=rate(lengthscales),
            borders=np.arange(len(lengthscales) + 1) * (len(output_scales) * len(noise_scales)),
            output_variance=output_scale**2,
            variance=output_scale**2 + noise_scale**2,
            log_prior=(
                _log_prior(lengthscale, _LENGTHSCALE_PRIOR)
                + _log_prior(output_scale, _OUTPUT_SCALE_PRIOR)
                + _log_prior(noise_scale, _NOISE_SCALE_PRIOR)
            ),
            membership=membership,
            spread=membership * output_scale**2,
        )

    def __len__(self) -> int:
        return len(self.log_prior)

    def heaviest(self, log_likelihood: FloatArray) -> tuple[FloatArray, IndexArray]:
        """The smallest set of settings with `_KEPT_WEIGHT` of the weight, at most `MAX_KEPT`: weights, indices [k].

        They come in the order of the grid, so that those with the same lengthscale are neighbours.
        """
        log_weight = log_likelihood + self.log_prior
        log_weight -= np.maximum.reduce(log_weight)
        weight = np.exp(log_weight)
        falling = weight.copy()
        falling.sort()
        falling = falling[::-1]
        cumulative = np.add.accumulate(falling)
        n_kept = min(int(cumulative.searchsorted(_KEPT_WEIGHT * cumulative[-1])) + 1, MAX_KEPT)
        least = falling[n_kept - 1]
        kept = (weight >= least).nonzero()[0]
        if len(kept) > n_kept:
            # Of settings that weigh the same, the first ones.
            kept = np.delete(kept, (weight.take(kept) == least).nonzero()[0][n_kept - len(kept) :])
        return weight.take(kept) / cumulative[n_kept - 1], kept

    def lengthscales_of(self, kept: IndexArray) -> tuple[IndexArray, list[int]]:
        """The lengthscales of settings [k] that are in order, each once [g], and where each of them begins [g]."""
        places = kept.searchsorted(self.borders).tolist()
        present = [i for i, (start, stop) in enumerate(itertools.pairwise(places)) if start < stop]
        return np.array(present), [places[i] for i in present]


@functools.cache
def grid() -> Grid:
    """The grid that every search uses."""
    return Grid.of(_LENGTHSCALES, _OUTPUT_SCALES, _NOISE_SCALES)


def _log_prior(values: FloatArray, prior: tuple[float, float]) -> FloatArray:
    # The grid is even in the logarithm, so it is the density of the logarithm that counts.
    median, sd = prior
    result: FloatArray = -0.5 * (np.log(values / median) / sd) ** 2
    return result
