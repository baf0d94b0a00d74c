"""The surrogate: an exact Gaussian process of the loss over log LR, averaged over its hyperparameters.

Surrogates with as many observations are fitted in one batch. What comes out for one of them is the same, bit for bit,
whatever else is in the batch: factors and triangular solves are LAPACK's, one matrix after the other; the rest is
elementwise or a sum over n. Matrix products of a batch are not: where a matrix lies in memory changes how they round.

Notation and shapes (n observations, m query points, h hyperparameter settings, k <= h of them kept; before these, when
several surrogates are fitted at once, comes b, their number):

    x           [n]        log LR, mapped so that the bounds become 0 and 1
    y           [n]        loss less the prior mean, winsorised and standardised: (loss - prior_mean - centre) / scale
    f                      the noise-free loss at an LR, in units of y;  f ~ GP(0, s^2 k(x, x'; l))
    l, s, sigma [h]        lengthscale, output scale and noise scale of a setting (all standard deviations or lengths)
    v           [n]        the candidate's own noise variance, in units of y^2

An observation is y_i = f(x_i) + e_i with e_i ~ N(0, sigma^2 + v_i): v_i is what the forecast knows about its
own error, sigma what it doesn't. k is the Matern-5/2 kernel. Nothing is fitted: the log marginal likelihood of a fixed
grid of (l, s, sigma) is evaluated in one batch, and predictions are averaged over the settings that carry the weight,
proportional to likelihood times prior. This is the fully Bayesian treatment of Snoek et al. (2012), section 3.2, with
a grid in place of their slice sampling: three hyperparameters and one input dimension are few enough.

A diverged probe is a censored observation: of f_i only f_i >= t_i is known. Its factor is approximated by a Gaussian
through expectation propagation, see `_propagate`.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from botorch.utils.probability.utils import log_ndtr, standard_normal_log_hazard
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
PriorMean = Callable[[FloatArray], FloatArray]
"""Expected loss at each of some log LRs, before any observation."""

MAX_LOSS = 1e100
"""A larger loss (or noise deviation) is refused: its square, a variance, would come near the end of float64."""

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
_MAX_KEPT = 32
"""Bounds the cost of the posterior. Reached only with few observations, when many settings are about as likely."""

_MAX_NOISE_SD = 1e4
"""A deviation, in units of y, that says nothing any more. A larger one would cost the Cholesky factor its accuracy."""
_WINSOR_REACH = 3.0
"""Losses count up to this many times as far above the median as the best lies below it: past what a bowl does."""
_LOWEST_THRESHOLD = -1e3
"""A level in units of y, more than a hundred times the largest output scale below the centre."""
_CENSORED_NOISE_VAR = 1e-6
"""Softens the step of a censored factor, in units of y^2: keeps its Gaussian, and the covariance, well conditioned."""
_MAX_BATCH = 2**18
"""Numbers in a batch of covariances (2 MB): larger ones fall out of the cache and gain nothing."""
_EP_ROUNDS = 6
"""Parallel updates of the censored factors; what is left after them is far below the noise of a search."""


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
        if self.log_lr.ndim != 1:
            raise ValueError(f"log_lr must have one dimension, got {self.log_lr.ndim}")
        for name in ("loss", "noise_var", "censored"):
            shape = getattr(self, name).shape
            if shape != self.log_lr.shape:
                raise ValueError(f"{name} has shape {shape}, log_lr {self.log_lr.shape}")
        if not np.isfinite(self.log_lr).all():
            raise ValueError("log_lr must be finite")
        if not (np.abs(self.loss) <= MAX_LOSS).all():
            raise ValueError(f"losses must be finite and at most {MAX_LOSS:g} in size")
        if not ((self.noise_var >= 0) & (self.noise_var <= MAX_LOSS**2)).all():
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

    def mixture_mean(self) -> FloatArray:
        """[m] mean over the settings."""
        return self.weight @ self.mean

    def mixture_variance(self) -> FloatArray:
        """[m] variance over the settings, by the law of total variance."""
        spread = self.mean - self.mixture_mean()
        return self.weight @ (self.variance + spread**2)


@dataclass(frozen=True, eq=False)
class _Regression:
    """Gaussian regression, for any batch of settings; W is the inverse Cholesky factor: W (K + diag(var)) W' = I.

    Attributes:
        whitener: [..., n, n] W.
        whitened: [..., n] W y.
    """

    whitener: Tensor
    whitened: Tensor

    @classmethod
    def solve(cls, covariance: Tensor, target: Tensor, variance: Tensor) -> _Regression:
        """Solves for K [..., n, n], y [..., n] and the noise variances [..., n]."""
        chol = torch.linalg.cholesky(covariance + torch.diag_embed(variance))
        eye = torch.eye(chol.shape[-1], dtype=chol.dtype)
        whitener = torch.linalg.solve_triangular(chol, eye, upper=False)
        return cls(whitener, (whitener * target.unsqueeze(-2)).sum(-1))

    def log_marginal_likelihood(self) -> Tensor:
        """[...] log N(y | 0, K + diag(var)): Rasmussen and Williams (2006), equation 2.30."""
        log_det = -2.0 * self.whitener.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        n = self.whitened.shape[-1]
        return -0.5 * (self.whitened.square().sum(-1) + log_det + n * math.log(2.0 * math.pi))

    def leave_one_out(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """[..., n] mean and variance of each y_i given the others: Rasmussen and Williams (2006), equation 5.12."""
        variance = 1.0 / self.whitener.square().sum(-2)
        residual = (self.whitener * self.whitened.unsqueeze(-1)).sum(-2) * variance
        return target - residual, variance

    def predict(self, correlation: Tensor, output_variance: Tensor) -> tuple[Tensor, Tensor]:
        """[k, m] mean and variance of f, from its correlation [k, n, m] of observations and queries, and s^2 [k]."""
        # Scaling the small matrix and squaring in place: the large arrays cost more in page faults than in arithmetic.
        projected = (output_variance[:, None, None] * self.whitener) @ correlation
        mean = (self.whitened.unsqueeze(-2) @ projected).squeeze(-2)
        # Rounding can take a variance below zero at an observation without noise.
        return mean, (output_variance[:, None] - projected.square_().sum(-2)).clamp_min_(1e-12)

    def __getitem__(self, index: int | Tensor) -> _Regression:
        return _Regression(self.whitener[index], self.whitened[index])


@dataclass(frozen=True, eq=False)
class Fitted:
    """A surrogate that has seen its observations; made by `Surrogate.fit`."""

    surrogate: Surrogate
    centre: float
    scale: float
    weight: FloatArray
    """[k] weights of the settings that were kept."""
    _x: Tensor
    _lengthscale: Tensor
    _output_variance: Tensor
    _regression: _Regression

    @torch.no_grad()
    def posterior(self, log_lr: FloatArray) -> Posterior:
        """The loss to expect at the LRs [m]; mean and variance only, no covariances."""
        queries = self.surrogate.normalise(log_lr)
        # Most settings share their lengthscale with others: the kernel is evaluated once for each.
        lengthscale, inverse = np.unique(self._lengthscale.numpy(), return_inverse=True)
        correlation = _matern(self._x, queries, torch.from_numpy(lengthscale))[torch.from_numpy(inverse)]
        mean, var = self._regression.predict(correlation, self._output_variance)
        level = self.centre + self.surrogate.prior_at(log_lr)
        return Posterior(self.scale * mean.numpy() + level, self.scale**2 * var.numpy(), self.weight)


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

    def normalise(self, log_lr: FloatArray) -> Tensor:
        """[m] log LRs with the bounds mapped to 0 and 1."""
        low, high = self.bounds
        return torch.from_numpy((np.asarray(log_lr, dtype=np.float64) - low) / (high - low))

    def prior_at(self, log_lr: FloatArray) -> FloatArray:
        """[m] the prior mean, in loss units."""
        return np.zeros_like(log_lr) if self.prior_mean is None else self.prior_mean(log_lr)

    def fit(self, observations: Observations) -> Fitted:
        """Weighs the grid of hyperparameters by the observations, of which there may be none."""
        (fitted,) = fit_all([(self, observations)])
        return fitted

    def _standardise(self, observations: Observations) -> tuple[float, float, Tensor, Tensor]:
        """The centre, the scale, y [n] (for censored ones t) and v [n]."""
        if not len(observations):
            return 0.0, 1.0, torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
        residual = observations.loss - self.prior_at(observations.log_lr)
        seen = np.ones_like(observations.censored) if observations.censored.all() else ~observations.censored
        # For a threshold this is a weaker statement and still true: "at least t" implies "at least the worst seen"
        # where that is lower. How far above everything it was is then no number that matters.
        residual = np.minimum(residual, _highest(residual[seen]))
        centre, scale = _location_scale(residual[seen], observations.noise_var[seen])
        # Only a threshold can lie far below the rest, and there it says nothing.
        target = np.maximum((residual - centre) / scale, _LOWEST_THRESHOLD)
        noise_sd = np.minimum(np.sqrt(observations.noise_var) / scale, _MAX_NOISE_SD)
        return centre, scale, torch.from_numpy(target), torch.from_numpy(noise_sd**2)


def fit_all(pairs: Sequence[tuple[Surrogate, Observations]]) -> list[Fitted]:
    """What `Surrogate.fit` gives for each, bit for bit, computed together where the shapes are the same."""
    alike: defaultdict[tuple[int, bool], list[int]] = defaultdict(list)
    for i, (_, observations) in enumerate(pairs):
        alike[len(observations), bool(observations.censored.any())].append(i)
    fitted: dict[int, Fitted] = {}
    for (n, _), indices in alike.items():
        size = max(_MAX_BATCH // (len(_grid().log_prior) * max(n, 1) ** 2), 1)
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            fitted |= zip(batch, _fit_batch([pairs[i] for i in batch]), strict=True)
    return [fitted[i] for i in range(len(pairs))]


@torch.no_grad()
def _fit_batch(pairs: Sequence[tuple[Surrogate, Observations]]) -> list[Fitted]:
    """Fits surrogates with as many observations each, all with censored ones among them or none."""
    standardised = [surrogate._standardise(observations) for surrogate, observations in pairs]
    target = torch.stack([target for _, _, target, _ in standardised])
    noise_var = torch.stack([noise_var for _, _, _, noise_var in standardised])
    censored = torch.stack([torch.from_numpy(observations.censored) for _, observations in pairs])
    x = torch.stack([surrogate.normalise(observations.log_lr) for surrogate, observations in pairs])
    grid = _grid()
    correlation = _matern(x, x, torch.from_numpy(_LENGTHSCALES))[:, grid.lengthscale_index]
    regression, log_likelihood = _infer(
        covariance=grid.output_variance[:, None, None] * correlation,
        target=target[:, None],
        variance=noise_var[:, None] + grid.noise_variance[:, None],
        noise_var=noise_var[:, None],
        censored=censored[:, None],
    )
    weights = torch.softmax(log_likelihood + grid.log_prior, dim=-1)
    fitted = []
    for i, (surrogate, _) in enumerate(pairs):
        weight, kept = _heaviest(weights[i])
        fitted.append(
            Fitted(
                surrogate=surrogate,
                centre=standardised[i][0],
                scale=standardised[i][1],
                weight=weight.numpy(),
                _x=x[i],
                _lengthscale=grid.lengthscale[kept],
                _output_variance=grid.output_variance[kept],
                _regression=regression[i][kept],
            )
        )
    return fitted


@dataclass(frozen=True, eq=False)
class _Grid:
    """Every combination of the hyperparameters; all tensors have shape [h]."""

    lengthscale: Tensor
    lengthscale_index: Tensor
    output_variance: Tensor
    noise_variance: Tensor
    log_prior: Tensor


@functools.cache
def _grid() -> _Grid:
    def log_prior(values: FloatArray, prior: tuple[float, float]) -> FloatArray:
        # The grid is even in the logarithm, so it is the density of the logarithm that counts.
        median, sd = prior
        return -0.5 * (np.log(values / median) / sd) ** 2

    index = np.indices((len(_LENGTHSCALES), len(_OUTPUT_SCALES), len(_NOISE_SCALES))).reshape(3, -1)
    lengthscale = _LENGTHSCALES[index[0]]
    output_scale = _OUTPUT_SCALES[index[1]]
    noise_scale = _NOISE_SCALES[index[2]]
    prior = (
        log_prior(lengthscale, _LENGTHSCALE_PRIOR)
        + log_prior(output_scale, _OUTPUT_SCALE_PRIOR)
        + log_prior(noise_scale, _NOISE_SCALE_PRIOR)
    )
    return _Grid(
        lengthscale=torch.from_numpy(lengthscale),
        lengthscale_index=torch.from_numpy(index[0]),
        output_variance=torch.from_numpy(output_scale**2),
        noise_variance=torch.from_numpy(noise_scale**2),
        log_prior=torch.from_numpy(prior),
    )


def _matern(x1: Tensor, x2: Tensor, lengthscale: Tensor) -> Tensor:
    """[..., l, n, m] Matern-5/2 correlations of x1 [..., n] and x2 [..., m] for each lengthscale [l].

    With d = sqrt(5) |x1 - x2| / l, (1 + d + d^2 / 3) exp(-d): Rasmussen and Williams (2006), equation 4.17. GPyTorch's
    kernel subtracts the mean of all inputs first, so that its rounding would depend on what else is in the batch.
    """
    distance = (x1[..., None, :, None] - x2[..., None, None, :]).abs_()
    d = distance * (math.sqrt(5.0) / lengthscale)[:, None, None]
    return (d * (1.0 / 3.0) + 1.0).mul_(d).add_(1.0).mul_(d.neg_().exp_())


def _infer(
    covariance: Tensor, target: Tensor, variance: Tensor, noise_var: Tensor, censored: Tensor
) -> tuple[_Regression, Tensor]:
    """The regression and the log evidence [..., h] of every setting.

    Args:
        covariance: [..., h, n, n] of f at the observations.
        target: [..., n] y, or t where censored; broadcasts to [..., h, n], as do `noise_var` and `censored`.
        variance: [..., h, n] sigma^2 + v of the observations; not used where censored.
        noise_var: [..., n] v.
        censored: [..., n].
    """
    target = target.expand_as(variance)
    if not censored.any():
        regression = _Regression.solve(covariance, target, variance)
        return regression, regression.log_marginal_likelihood()
    return _propagate(covariance, target, variance, noise_var + _CENSORED_NOISE_VAR, censored)


def _propagate(
    covariance: Tensor, threshold: Tensor, variance: Tensor, softness: Tensor, censored: Tensor
) -> tuple[_Regression, Tensor]:
    """Expectation propagation for censored observations (Groot and Lucas, 2012, "GP regression with censored data").

    The factor of a censored observation is Phi((f_i - t_i) / sqrt(v_i)). EP replaces it by a Gaussian: a
    pseudo-observation with target mu_i and variance tau_i, so that everything stays Gaussian regression. One update,
    with m and c the mean and variance of f_i given all the others, z = (m - t_i) / sqrt(v_i + c), r = phi(z) / Phi(z):

        mu_i  = m + sqrt(v_i + c) / (z + r)
        tau_i = (v_i + c) / (r (z + r)) - c

    which gives f_i the mean and variance that it has under the exact factor (Rasmussen and Williams, 2006, equations
    3.58 and 3.59). The evidence is that of the regression with each pseudo-observation's predictive density replaced by
    the probability Phi(z) (their equation 3.65). The claim is about f, not about f plus noise: an LR at which training
    falls apart is not an unlucky draw.

    Args:
        covariance: [..., h, n, n] of f.
        threshold: [..., h, n] t where censored, y elsewhere.
        variance: [..., h, n] of the noise, not used where censored.
        softness: [..., n] v where censored; broadcasts to [..., h, n], as does `censored`.
        censored: [..., n].
    """
    target = threshold
    variance = torch.where(censored, softness, variance)
    for _ in range(_EP_ROUNDS):
        regression = _Regression.solve(covariance, target, variance)
        mean, total = regression.leave_one_out(target)
        cavity = (total - variance).clamp_min(1e-12)
        sd = (softness + cavity).sqrt()
        z = _censored_z(mean, threshold, sd)
        hazard = standard_normal_log_hazard(-z).exp()
        # Near 0 the censoring says nothing, and the pseudo-observation has all but no weight.
        information = (hazard * (z + hazard)).clamp_min(_MAX_NOISE_SD**-2)
        target = torch.where(censored, mean + sd / (z + hazard), target)
        variance = torch.where(censored, sd.square() / information - cavity, variance)
    regression = _Regression.solve(covariance, target, variance)
    mean, total = regression.leave_one_out(target)
    sd = (softness + (total - variance).clamp_min(1e-12)).sqrt()
    log_density = -0.5 * ((target - mean).square() / total + (2.0 * math.pi * total).log())
    correction = torch.where(censored, log_ndtr(_censored_z(mean, threshold, sd)) - log_density, 0.0)
    return regression, regression.log_marginal_likelihood() + correction.sum(-1)


def _censored_z(mean: Tensor, threshold: Tensor, sd: Tensor) -> Tensor:
    # Beyond 1e4 standard deviations z + phi/Phi is lost to rounding; beyond 30 above, censoring says nothing.
    return ((mean - threshold) / sd).clamp(-1e4, 30.0)


def _heaviest(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest set of settings with `_KEPT_WEIGHT` of the weight, at most `_MAX_KEPT`: weights [k], indices [k]."""
    ordered, order = weight.sort(descending=True, stable=True)
    n_kept = min(int((ordered.cumsum(0) < _KEPT_WEIGHT).sum()) + 1, _MAX_KEPT)
    return ordered[:n_kept] / ordered[:n_kept].sum(), order[:n_kept]


def _highest(residual: FloatArray) -> float:
    """The level at which losses are winsorised, or the worst of them if that is lower.

    A high LR can cost any amount, and no stationary kernel follows a cliff and a shallow optimum beside it. That such
    an LR is bad is all that the search needs. On curves with a cliff it took the mean regret after ten probes from 0.09
    to 0.04 (log expected improvement; the curve falls by 0.15 for each e-fold of the LR, up to the cliff).
    """
    median, worst = statistics.median(residual.tolist()), float(residual.max())
    # The second term keeps worse losses apart from the others where most of them are equal.
    reach = max(median - float(residual.min()), 0.02 * (worst - median))
    return min(float(median + _WINSOR_REACH * reach), worst)


def _location_scale(residual: FloatArray, noise_var: FloatArray) -> tuple[float, float]:
    """Median and standard deviation, with floors that keep the scale away from 0."""
    scale = max(
        float(residual.std()),
        math.sqrt(statistics.median(noise_var.tolist())),  # differences below the noise are noise
        1e-12 * float(np.abs(residual).max()),  # constant losses, but for rounding
        1.0 / MAX_LOSS,  # all zero
    )
    return statistics.median(residual.tolist()), scale
