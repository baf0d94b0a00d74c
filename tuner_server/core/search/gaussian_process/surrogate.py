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

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tuner_server.core.search.gaussian_process import hyperparameters
from tuner_server.core.search.gaussian_process.censoring import SOFTNESS, propagate
from tuner_server.core.search.gaussian_process.elimination import Elimination, elimination, widest
from tuner_server.core.search.gaussian_process.hyperparameters import MAX_KEPT, Grid
from tuner_server.core.search.gaussian_process.kernel import matern
from tuner_server.core.search.gaussian_process.posterior import Fitted, PriorMean, normalised
from tuner_server.core.search.gaussian_process.standardisation import MAX_LOSS, Standardised, standardise

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]
Number = TypeVar("Number", bound=np.generic)


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
        log_lrs, losses, variances = self.log_lr.tolist(), self.loss.tolist(), self.noise_var.tolist()
        # No loss is larger than the length of the vector, and no comparison with NaN holds.
        if not (
            math.isfinite(sum(log_lrs))
            and math.hypot(*losses) <= MAX_LOSS
            and sum(variances) <= MAX_LOSS**2
            and min(variances, default=0.0) >= 0
        ):
            self._check_one_by_one()

    def _check_one_by_one(self) -> None:
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
        return normalised(log_lr, self.bounds)

    def fit(self, observations: Observations) -> Fitted:
        """Weighs the grid of hyperparameters by the observations, of which there may be none."""
        (fitted,) = fit_all([(self, observations)])
        return fitted


class _Prepared(NamedTuple):
    """A surrogate and its observations in units of x and y; those that are censored come last."""

    surrogate: Surrogate
    x: FloatArray
    losses: Standardised
    n_censored: int

    @classmethod
    def of(cls, surrogate: Surrogate, observations: Observations) -> _Prepared:
        log_lr, loss, noise_var = observations.log_lr, observations.loss, observations.noise_var
        censored = observations.censored
        n_censored = censored.tolist().count(True)
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
    if len(prepared) == 1:
        return _fit_batch(grid, prepared)
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
    work = elimination(n, b * h, b * min(h, MAX_KEPT))
    noise_var = _side_by_side([one.losses.noise_var for one in batch])
    target = _side_by_side([one.losses.target for one in batch])
    correlation = _fill(work, grid, _side_by_side([one.x for one in batch]))
    work.target.reshape(n, b, h)[...] = target[..., None]
    seen = n - n_censored
    diagonal = work.diagonal[:seen].reshape(seen, b, h)
    np.add(noise_var[:seen, :, None], grid.variance, diagonal)
    work.run(stop=seen)
    correction: FloatArray | None = None
    if n_censored:
        correction = _censor(work, seen, np.repeat(target[seen:], h, 1), np.repeat(noise_var[seen:] + SOFTNESS, h, 1))
    log_likelihood = work.log_likelihood()
    if correction is not None:
        log_likelihood += correction
    return _weighed(work, grid, batch, log_likelihood.reshape(b, h), correlation)


def _side_by_side(columns: Sequence[FloatArray]) -> FloatArray:
    """[n, b] vectors as the columns of a matrix."""
    return columns[0][:, None] if len(columns) == 1 else np.array(columns).T


def _fill(work: Elimination, grid: Grid, x: FloatArray) -> FloatArray:
    """Puts the covariances of f there, for all settings; x [n, b]. The right-hand side is left as it comes.

    Returns:
        [n, n, b, l] the correlations.
    """
    n, b = x.shape
    apart = np.zeros((n, n + 1, b))
    np.subtract(x[:, None], x, apart[:, :n])
    np.abs(apart, apart)
    correlation = matern(apart[..., None] * grid.rates)
    np.matmul(
        correlation.reshape(-1, len(grid.lengthscales)), grid.spread, work.columns.reshape(n * (n + 1) * b, len(grid))
    )
    return correlation[:, :n]


def _censor(work: Elimination, seen: int, threshold: FloatArray, softness: FloatArray) -> FloatArray:
    """Puts pseudo-observations in place of the censored ones, and goes on to the end: log correction [w]."""
    work.target[seen:] = 0.0
    censored = Elimination(work.n - seen, work.width, work.width)
    work.remainder(seen, censored)
    pseudo = propagate(censored, threshold, softness)
    work.diagonal[seen:] += pseudo.variance
    work.target[seen:] = pseudo.target
    work.run(seen)
    return pseudo.log_correction


def _weighed(
    work: Elimination, grid: Grid, batch: Sequence[_Prepared], log_likelihood: FloatArray, correlation: FloatArray
) -> list[Fitted]:
    """What the posteriors need of the settings that carry the weight; log likelihoods [b, h]."""
    chosen = [grid.heaviest(one) for one in log_likelihood]
    counts = [len(kept) for _, kept in chosen]
    settings = _joined([kept for _, kept in chosen])
    places, scale = settings, np.array(batch[0].losses.scale)
    if len(batch) > 1:
        places = settings + np.repeat(np.arange(0, work.width, len(grid)), counts)
        scale = np.repeat([one.losses.scale for one in batch], counts)
    variance = grid.output_variance.take(settings)
    variance *= scale
    rows = _rows(work, places, variance)
    variance *= scale
    fitted, stop = [], 0
    for i, (one, (weight, kept)) in enumerate(zip(batch, chosen, strict=True)):
        start, stop = stop, stop + len(kept)
        lengthscales, starts = grid.lengthscales_of(kept)
        share = grid.membership.take(lengthscales, 0).take(kept, 1)
        share *= weight
        summed, level = _summed(rows[start:stop], share)
        fitted.append(
            Fitted(
                grid=grid,
                bounds=one.surrogate.bounds,
                prior_mean=one.surrogate.prior_mean,
                centre=one.losses.centre,
                scale=one.losses.scale,
                weight=weight,
                x=one.x,
                variance=variance[start:stop, None],
                rows=rows[start:stop],
                summed=summed,
                level=level,
                lengthscales=lengthscales,
                starts=starts,
                own=correlation[:, :, i],
            )
        )
    return fitted


def _joined(arrays: Sequence[npt.NDArray[Number]]) -> npt.NDArray[Number]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _rows(work: Elimination, places: IndexArray, variance: FloatArray) -> FloatArray:
    """[k, n + 1, n] s^2 D^-1/2 L^-1, and as the last row s^2 (K^-1 y)', of k settings; s^2 [k] in any unit."""
    n, k = work.n, len(places)
    rows, factor = np.empty((k, n + 1, n)), np.empty((n + 1, k))
    deviation = work.diagonal.take(places, 1)
    np.divide(variance, np.sqrt(deviation, deviation), factor[:n])
    np.negative(variance, factor[n])
    np.multiply(work.inverses(places), factor[:, None], rows.transpose(1, 2, 0))
    return rows


def _summed(rows: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """[g, n, n] sums of w (R' R - a a') and [g, n] of -w a', by the weight of a setting for a lengthscale [g, k]."""
    (k, _, n), g = rows.shape, len(share)
    sign = np.ones((n + 1, 1))
    sign[n] = -1.0
    turned = rows * sign
    # Products are made one after the other, each in a shape that doesn't depend on other searches.
    products = np.matmul(rows.transpose(0, 2, 1), turned)
    return share.dot(products.reshape(k, n * n)).reshape(g, n, n), share.dot(turned[:, n])
