"""The surrogate: an exact Gaussian process of the loss over log LR, averaged over its hyperparameters.

Surrogates with as many observations are fitted together. What comes out for one of them is the same, bit for bit,
whatever else is there: what is computed together is computed element by element (`elimination`), and what adds up, a
weight or a product with the queries, is computed for each surrogate by itself, in a shape that is its own.

Notation and shapes (n observations, m query points, h hyperparameter settings, k <= h of them kept, with g
lengthscales; b surrogates that are fitted together; w = b h):

    x           [n]        log LR, mapped so that the bounds become 0 and 1
    y           [n]        standardised loss, see `standardisation`
    f                      the noise-free loss at an LR, in units of y;  f ~ GP(0, s^2 k(x, x'; l))
    l, s, sigma [h]        the hyperparameters, see `hyperparameters`
    v           [n]        the candidate's own noise variance, in units of y^2
    K           [n, n]     s^2 k(x, x'; l) + diag(sigma^2 + v) = L D L'
    c           [n, m]     k of observations and queries

An observation is y_i = f(x_i) + e_i with e_i ~ N(0, sigma^2 + v_i): v_i is what the forecast knows about its own error,
sigma what it doesn't. k is the Matern-5/2 kernel. At the queries f has the mean s^2 c' K^-1 y and the variance
s^2 - s^4 c' K^-1 c (Rasmussen and Williams, 2006, equations 2.25 and 2.26).

A diverged probe is a censored observation: of f_i only f_i >= t_i is known, see `censoring`.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tuner_server.core.search import hyperparameters
from tuner_server.core.search.censoring import SOFTNESS, propagate
from tuner_server.core.search.elimination import Elimination, elimination, unit_inverse, widest
from tuner_server.core.search.hyperparameters import Grid
from tuner_server.core.search.kernel import matern, rate
from tuner_server.core.search.standardisation import MAX_LOSS, Standardised, standardise

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
PriorMean = Callable[[FloatArray], FloatArray]
"""Expected loss at each of some log LRs, before any observation."""

_LEAST_VARIANCE = 1e-12
"""The least variance of f, in units of y^2: rounding can take it below zero at an observation without noise."""


@dataclass(frozen=True, eq=False)
class Observations:
    """What is known of the loss at n LRs.

    Attributes:
        log_lr: [n] natural logarithm of the LRs.
        loss: [n] observed loss; where `censored`, the level that the loss is known to reach or exceed.
        noise_var: [n] variance of the error of `loss`, in squared loss units.
        censored: [n] whether only a lower bound of the loss is known, as for a probe that diverged.

    Raises:
        ValueError: The shapes differ, a number is not finite, a variance is negative, or a loss (or the root of a
            variance) exceeds `MAX_LOSS`.
    """

    log_lr: FloatArray
    loss: FloatArray
    noise_var: FloatArray
    censored: BoolArray

    def __post_init__(self) -> None:
        shape = self.log_lr.shape
        if len(shape) != 1:
            raise ValueError(f"log_lr must have one dimension, got {self.log_lr.ndim}")
        for name, array in (("loss", self.loss), ("noise_var", self.noise_var), ("censored", self.censored)):
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, log_lr {shape}")
        # A maximum is NaN if any number is, and no comparison with NaN holds.
        if not np.maximum.reduce(np.abs(self.log_lr), initial=0.0) < math.inf:
            raise ValueError("log_lr must be finite")
        if not np.maximum.reduce(np.abs(self.loss), initial=0.0) <= MAX_LOSS:
            raise ValueError(f"losses must be finite and at most {MAX_LOSS:g} in size")
        lowest, highest = (find.reduce(self.noise_var, initial=0.0) for find in (np.minimum, np.maximum))
        if not (lowest >= 0 and highest <= MAX_LOSS**2):
            raise ValueError(f"noise variances must lie between 0 and {MAX_LOSS**2:g}")

    def __len__(self) -> int:
        return len(self.log_lr)


@dataclass(frozen=True, eq=False)
class Posterior:
    """A mixture of k Gaussians at each of m LRs, in loss units.

    Attributes:
        mean: [k, m] mean of the noise-free loss under each hyperparameter setting.
        variance: [k, m] its variance.
        weight: [k] weight of each setting; they add up to 1.
    """

    mean: FloatArray
    variance: FloatArray
    weight: FloatArray

    @cached_property
    def mixture_mean(self) -> FloatArray:
        """The mean over the settings [m]."""
        return self.weight @ self.mean

    @cached_property
    def mixture_variance(self) -> FloatArray:
        """The variance over the settings [m], by the law of total variance."""
        spread = self.mean - self.mixture_mean
        spread *= spread
        spread += self.variance
        return self.weight @ spread


@dataclass(frozen=True, eq=False, slots=True)
class Fitted:
    """A surrogate that has seen its observations; made by `Surrogate.fit`."""

    surrogate: Surrogate
    centre: float
    scale: float
    weight: FloatArray
    """[k] weights of the settings that were kept."""
    _x: FloatArray
    _variance: FloatArray
    """[k, 1] of f before any observation, in loss units, as all that follows."""
    _rows: FloatArray
    """[k, n + 1, n] s^2 D^-1/2 L^-1, whose product with c has the variance that is explained as its sum of squares; the
    last row is s^2 K^-1 y, whose product with c is the mean."""
    _lengthscale: FloatArray
    """[g, 1, 1] each lengthscale once."""
    _starts: Sequence[int]
    """[g + 1] the settings of a lengthscale are neighbours: from here to before the next one's."""

    def posterior(self, log_lr: FloatArray) -> Posterior:
        """The loss to expect at the LRs [m]; mean and variance only, no covariances."""
        queries = self.surrogate.normalise(log_lr)
        n, m = len(self._x), len(queries)
        distance = np.subtract(self._x[:, None], queries)
        np.abs(distance, distance)
        # One lengthscale is multiplied after the other, in shapes that don't depend on other searches.
        correlation = matern(distance * rate(self._lengthscale))
        products = np.empty((len(self.weight), n + 1, m))
        for i, (start, stop) in enumerate(itertools.pairwise(self._starts)):
            rows = self._rows[start:stop].reshape((stop - start) * (n + 1), n)
            np.matmul(rows, correlation[i], products[start:stop].reshape((stop - start) * (n + 1), m))
        explained = products[:, :n]
        explained *= explained
        variance = self._variance - np.add.reduce(explained, 1)
        np.maximum(variance, _LEAST_VARIANCE * self.scale**2, out=variance)
        prior_mean = self.surrogate.prior_mean
        mean = products[:, n] + (self.centre if prior_mean is None else self.centre + prior_mean(log_lr))
        return Posterior(mean, variance, self.weight)


@dataclass(frozen=True)
class Surrogate:
    """The model before it has seen anything.

    Attributes:
        bounds: Natural logarithms of the lowest and the highest LR of the search.
        prior_mean: What is believed of the loss beforehand, as from an earlier stage; None: nothing. Only its shape
            matters: its level is found from the observations.

    Raises:
        ValueError: The bounds are not finite or not in order.
    """

    bounds: tuple[float, float]
    prior_mean: PriorMean | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"bounds must be finite and in order, got {self.bounds}")

    def normalise(self, log_lr: FloatArray) -> FloatArray:
        """The log LRs [m] with the bounds mapped to 0 and 1."""
        low, high = self.bounds
        result: FloatArray = (log_lr - low) / (high - low)
        return result

    def fit(self, observations: Observations) -> Fitted:
        """Weighs the grid of hyperparameters by the observations, of which there may be none."""
        (fitted,) = fit_all([(self, observations)])
        return fitted


@dataclass(frozen=True, eq=False, slots=True)
class _Prepared:
    """A surrogate and its observations in units of x and y; those that are censored come last."""

    surrogate: Surrogate
    x: FloatArray
    losses: Standardised
    n_censored: int

    @classmethod
    def of(cls, surrogate: Surrogate, observations: Observations) -> _Prepared:
        log_lr, loss, noise_var = observations.log_lr, observations.loss, observations.noise_var
        censored = observations.censored
        n_censored = int(np.count_nonzero(censored))
        if n_censored:
            order = censored.argsort(kind="stable")
            log_lr, loss, noise_var, censored = log_lr[order], loss[order], noise_var[order], censored[order]
        residual = loss if surrogate.prior_mean is None else loss - surrogate.prior_mean(log_lr)
        losses = standardise(residual, noise_var, censored if n_censored else None)
        return cls(surrogate, surrogate.normalise(log_lr), losses, n_censored)


def fit_all(pairs: Sequence[tuple[Surrogate, Observations]]) -> list[Fitted]:
    """What `Surrogate.fit` gives for each, bit for bit, computed together where the shapes are the same."""
    grid = hyperparameters.grid()
    prepared = [_Prepared.of(surrogate, observations) for surrogate, observations in pairs]
    alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, one in enumerate(prepared):
        alike[len(one.x), one.n_censored].append(i)
    fitted: dict[int, Fitted] = {}
    for (n, _), indices in alike.items():
        start, size = 0, widest(n, len(grid))
        while start < len(indices):
            # Few widths, so that few workspaces are enough.
            while size > len(indices) - start:
                size //= 2
            batch = indices[start : start + size]
            fitted.update(zip(batch, _fit_batch(grid, [prepared[i] for i in batch]), strict=True))
            start += size
    return [fitted[i] for i in range(len(pairs))]


def _fit_batch(grid: Grid, batch: Sequence[_Prepared]) -> list[Fitted]:
    """Fits surrogates with as many observations each, and as many censored ones."""
    n, n_censored, b, h = len(batch[0].x), batch[0].n_censored, len(batch), len(grid)
    work = elimination(n, b * h)
    noise_var = np.array([one.losses.noise_var for one in batch]).T
    target = np.array([one.losses.target for one in batch]).T
    _fill(work, grid, np.array([one.x for one in batch]).T)
    work.target.reshape(n, b, h)[...] = target[..., None]
    seen = n - n_censored
    work.diagonal[:seen].reshape(seen, b, h)[...] += noise_var[:seen, :, None] + grid.noise_variance
    work.run(stop=seen)
    correction: FloatArray | None = None
    if n_censored:
        correction = _censor(work, seen, np.repeat(target[seen:], h, 1), np.repeat(noise_var[seen:] + SOFTNESS, h, 1))
    log_likelihood = work.log_likelihood()
    if correction is not None:
        log_likelihood += correction
    return _weighed(work, grid, batch, log_likelihood.reshape(b, h))


def _fill(work: Elimination, grid: Grid, x: FloatArray) -> None:
    """The covariances of f for all settings; x [n, b]. The right-hand side is left as it comes."""
    n, b = x.shape
    apart = np.zeros((n, n + 1, b))
    np.abs(x[:, None] - x, apart[:, :n])
    correlation = matern(apart[..., None] * rate(grid.lengthscales))
    np.matmul(
        correlation.reshape(-1, len(grid.lengthscales)), grid.spread, work.columns.reshape(n * (n + 1) * b, len(grid))
    )


def _censor(work: Elimination, seen: int, threshold: FloatArray, softness: FloatArray) -> FloatArray:
    """Puts pseudo-observations in place of the censored ones, and goes on to the end: log correction [w]."""
    work.target[seen:] = 0.0
    censored = Elimination(work.n - seen, threshold.shape[1])
    work.remainder(seen, censored)
    pseudo = propagate(censored, threshold, softness)
    work.diagonal[seen:] += pseudo.variance
    work.target[seen:] = pseudo.target
    work.run(seen)
    return pseudo.log_correction


def _weighed(work: Elimination, grid: Grid, batch: Sequence[_Prepared], log_likelihood: FloatArray) -> list[Fitted]:
    """What the posteriors need of the settings that carry the weight; log likelihoods [b, h]."""
    n, scales = work.n, [one.losses.scale for one in batch]
    weights, kept = zip(*map(grid.heaviest, log_likelihood), strict=True)
    sizes = [len(one) for one in kept]
    settings = np.concatenate(kept)
    places = settings + np.repeat(np.arange(0, log_likelihood.size, len(grid)), sizes)
    scale = np.repeat(scales, sizes)
    variance = grid.output_variance[settings] * scale
    unit, inverse_pivot = work.unit.take(places, 2), work.inverse_pivot.take(places, 1)
    inverse = unit_inverse(unit)
    rows = np.empty((len(places), n + 1, n))
    by_setting = rows.transpose(1, 2, 0)
    np.multiply(inverse, (np.sqrt(inverse_pivot) * variance)[:, None], by_setting[:n])
    inverse *= unit[:, n, None]
    np.multiply(np.add.reduce(inverse, 0), variance, by_setting[n])
    variance *= scale
    fitted, stop = [], 0
    for one, weight, own in zip(batch, weights, kept, strict=True):
        start, stop = stop, stop + len(own)
        lengthscale, starts = grid.lengthscales_of(own)
        levels = (one.losses.centre, one.losses.scale)
        its = variance[start:stop, None], rows[start:stop]
        fitted.append(Fitted(one.surrogate, *levels, weight, one.x, *its, lengthscale, starts))
    return fitted
