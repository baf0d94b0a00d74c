"""Observations for the surrogate, and the textbook Gaussian process that it is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tuner_server.core.search.gaussian_process.surrogate import FloatArray, Observations

BOUNDS = (math.log(1e-4), 0.0)
GRID = np.linspace(*BOUNDS, 41)


def observe(
    log_lr: Sequence[float] | FloatArray,
    loss: Sequence[float] | FloatArray,
    noise_var: float = 1e-4,
    censored: Sequence[int] = (),
) -> Observations:
    """Observations with one noise; `censored` has the indices of those that are lower bounds."""
    mask = np.zeros(len(log_lr), dtype=np.bool_)
    mask[list(censored)] = True
    return Observations(
        np.asarray(log_lr, dtype=np.float64),
        np.asarray(loss, dtype=np.float64),
        np.full(len(log_lr), noise_var),
        mask,
    )


def wave(n: int, seed: int = 0) -> Observations:
    """A curve with as much above its median as below: nothing is winsorised."""
    rng = np.random.default_rng(seed)
    log_lr = rng.uniform(*BOUNDS, size=n)
    return observe(log_lr, 2.0 + 0.5 * np.sin(log_lr) + 0.02 * rng.normal(size=n))


def textbook_matern(a: FloatArray, b: FloatArray, lengthscale: float) -> FloatArray:
    """Rasmussen and Williams (2006), equation 4.17."""
    d = math.sqrt(5.0) * np.abs(a[:, None] - b) / lengthscale
    value: FloatArray = (1.0 + d + d**2 / 3.0) * np.exp(-d)
    return value


def textbook_gp(
    x: FloatArray,
    y: FloatArray,
    noise_var: FloatArray,
    query: FloatArray,
    setting: tuple[float, float, float],
) -> tuple[FloatArray, FloatArray, float]:
    """Mean, variance and log marginal likelihood: Rasmussen and Williams (2006), algorithm 2.1."""
    lengthscale, output_scale, noise_scale = setting
    k = output_scale**2 * textbook_matern(x, x, lengthscale)
    chol = np.linalg.cholesky(k + np.diag(noise_var + noise_scale**2))
    alpha = np.linalg.solve(chol.T, np.linalg.solve(chol, y))
    cross = output_scale**2 * textbook_matern(x, query, lengthscale)
    v = np.linalg.solve(chol, cross)
    lml = -0.5 * y @ alpha - np.log(np.diag(chol)).sum() - 0.5 * len(x) * math.log(2 * math.pi)
    return cross.T @ alpha, output_scale**2 - (v**2).sum(axis=0), float(lml)


def normalised(log_lr: FloatArray) -> FloatArray:
    """The place between the bounds, from 0 to 1."""
    value: FloatArray = (log_lr - BOUNDS[0]) / (BOUNDS[1] - BOUNDS[0])
    return value
