"""How the annealing law is fitted, and how its standard error comes from all fits that the losses leave possible.

Fit. Both areas are divided by their largest magnitudes, so that all parameters have the size of a loss. For given power
and momentum the law is linear in the other three: a grid over both has non-negative least squares in closed form
inside, which never fails. The best of each promising momentum is polished with L-BFGS-B under the published objective,
a Huber loss of ln(observed) - ln(predicted); losses that may be zero or negative have no logarithm, and take plain
residuals in units of their spread.

Standard error. The grid is a posterior of power and momentum with the linear parameters profiled out: each cell weighs
sse^(-m/2), m being the number of independent residuals. For one momentum, the squared error of a prediction is the mean
squared distance of the cells' predictions from it, and the variance of each. Few curves tell momenta apart that say
very different things of a fall that is yet to come: the largest error among those that are not ruled out counts. It
knows nothing of what the law leaves out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from tuner_server.core.laws.lr_path import FloatArray, IntArray

POWERS = np.geomspace(0.02, 4.0, 48)
"""Values of alpha on the grid, from nearly logarithmic to over at once."""
HUBER = 1e-3
"""Where the published objective turns from squares to magnitudes of residuals."""
POLISHED = 3
"""Momenta whose best fit is polished."""
POLISHING_ITERATIONS = 80
REWEIGHED = 2
"""Rounds in which outliers lose their weight in least squares."""
_FAR = 1.345 / 0.6745
"""Median distances from which on a residual counts less: Huber's constant, for normal noise."""
_RESOLUTION = 1e-9
"""The smallest residual that means anything, of losses about 1: below it, fits are equally good."""
_NEGLIGIBLE = 1e-5
"""Weight below which a cell of the grid is ruled out."""
_RULED_OUT = 0.02
"""Share of all weight below which a momentum does not count."""
_MOST_CORRELATION = 0.9
"""Lag-1 correlation of residuals beyond which a hundred points can't tell."""
_PARAMETERS = 5
_RIDGE = 1e-14
"""Keeps equations solvable whose columns are alike."""
_LEAST_PREDICTED = 1e-9
"""Lower predictions, for losses about 1, count as this one, as they may have no logarithm."""
_SCALE = 1e6
"""The objective is of the order 1e-5; in these units its optimizer does not stop too early."""


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What is fitted: areas in units of their largest, and losses."""

    s1: FloatArray
    """(n,)"""
    s2: FloatArray
    """(momenta, n)"""
    losses: FloatArray
    """(n,)"""
    logarithmic: bool
    """Whether residuals are differences of logarithms."""
    trust: FloatArray | None = None
    """(n,) the weights of residuals after outliers have lost theirs; None: all count alike."""

    @property
    def precision(self) -> FloatArray:
        """(n,) what residuals are multiplied by in least squares: a logarithm's is the loss's own, by the loss."""
        plain = 1.0 / np.maximum(self.losses, _LEAST_PREDICTED) if self.logarithmic else np.ones_like(self.losses)
        return plain if self.trust is None else plain * self.trust

    def reweighed(self, grid: Grid) -> Evidence:
        """The evidence for another round of least squares, in which what lies far from the best fit counts less."""
        best = grid.fitted(int(np.argmin(grid.sse)))
        distances = np.abs(dataclasses.replace(self, trust=None).precision * (self.losses - best.predict(self)))
        bound = max(_FAR * float(np.median(distances)), _RESOLUTION)
        return dataclasses.replace(self, trust=np.sqrt(bound / np.maximum(distances, bound)))


@dataclasses.dataclass(frozen=True)
class Fitted:
    """One fit of scaled areas: the row of its momentum, its parameters and its objective."""

    row: int
    level: float
    amplitude: float
    gain: float
    power: float
    objective: float = math.inf

    def predict(self, evidence: Evidence) -> FloatArray:
        """(n,) scaled losses."""
        found: FloatArray = self.level + self.amplitude * evidence.s1**-self.power - self.gain * evidence.s2[self.row]
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """Fits of scaled areas for many momenta and powers, by how likely they are; (c,) are cells."""

    rows: IntArray
    """(c,) which of the momenta each has."""
    powers: FloatArray
    """(c,)"""
    linear: FloatArray
    """(c, 3) level, amplitude and gain."""
    covariances: FloatArray
    """(c, 3, 3) of the linear parameters."""
    sse: FloatArray
    """(c,) sum of squared residuals."""
    weights: FloatArray
    """(c,), sum 1."""

    def likely(self) -> Grid:
        """The cells that are not ruled out."""
        return self._only(np.flatnonzero(self.weights > _NEGLIGIBLE * self.weights.max()))

    def _only(self, cells: IntArray) -> Grid:
        return Grid(
            self.rows[cells],
            self.powers[cells],
            self.linear[cells],
            self.covariances[cells],
            self.sse[cells],
            self.weights[cells],
        )

    def by_momentum(self) -> Iterator[tuple[int, Grid]]:
        """The momenta that are not ruled out, each with its cells."""
        for row in np.unique(self.rows).tolist():
            cells = self._only(np.flatnonzero(self.rows == row))
            if cells.weights.sum() > _RULED_OUT:
                yield row, cells

    def distance(self, s1: float, s2: float, loss: float) -> float:
        """Root mean square distance of the loss at these scaled areas from `loss`."""
        at = np.stack([np.ones_like(self.powers), s1**-self.powers, np.full_like(self.powers, -s2)], axis=1)
        distances = np.einsum("ci,ci->c", at, self.linear) - loss
        variances = np.maximum(np.einsum("ci,cij,cj->c", at, self.covariances, at), 0.0)
        return float(np.sqrt(self.weights @ (distances**2 + variances) / self.weights.sum()))

    def with_prior(self, gains: FloatArray) -> Grid:
        """The fits with what is known of the gain beforehand: it is 0, but for so much in either direction.

        Args:
            gains: (momenta,) the standard deviation of the gain, scaled.
        """
        seen = self.covariances[:, 2, 2]
        # A gain at its limit of 0 is no better known than another one.
        spread = self.covariances[:, :, 2] / (seen + gains[self.rows] ** 2)[:, None]
        linear = self.linear - spread * self.linear[:, 2, None]
        covariances = self.covariances - spread[:, :, None] * self.covariances[:, None, 2, :]
        return dataclasses.replace(self, linear=linear, covariances=covariances)

    def difference(self, s1: float, other: float, s2: FloatArray) -> tuple[float, float]:
        """Mean and standard deviation, over all cells, of the loss at S1 less that at another S1.

        Args:
            s1: scaled.
            other: scaled.
            s2: (momenta,) the difference of S2, scaled.
        """
        at = np.stack([np.zeros_like(self.powers), s1**-self.powers - other**-self.powers, -s2[self.rows]], axis=1)
        differences = np.einsum("ci,ci->c", at, self.linear)
        variances = np.maximum(np.einsum("ci,cij,cj->c", at, self.covariances, at), 0.0)
        weights = self.weights / self.weights.sum()
        mean = float(weights @ differences)
        return mean, float(np.sqrt(weights @ ((differences - mean) ** 2 + variances)))

    def fitted(self, cell: int) -> Fitted:
        """The parameters of one cell."""
        level, amplitude, gain = self.linear[cell].tolist()
        return Fitted(int(self.rows[cell]), level, amplitude, gain, float(self.powers[cell]))


def weighed(evidence: Evidence, *, known: bool) -> Grid:
    """The likely fits: of all momenta and powers first, then of a finer grid over those that these left possible."""
    momenta = np.arange(evidence.s2.shape[0])
    coarse = _on_grid(evidence, momenta, POWERS, known=known)
    for _ in range(REWEIGHED):
        evidence = evidence.reweighed(coarse)
        coarse = _on_grid(evidence, momenta, POWERS, known=known)
    coarse = coarse.likely()
    # Precise data tell neighbours of the grid apart, and none of them is the truth.
    ends = np.searchsorted(POWERS, [coarse.powers.min(), coarse.powers.max()]) + np.array([-1, 1])
    first, last = POWERS[np.clip(ends, 0, POWERS.size - 1)]
    return _on_grid(evidence, np.unique(coarse.rows), np.geomspace(first, last, POWERS.size), known=known).likely()


def _on_grid(evidence: Evidence, momenta: IntArray, powers: FloatArray, *, known: bool) -> Grid:
    """The fits for some of the momenta and each of the powers, weighed."""
    rows, powers = np.repeat(momenta, powers.size), np.tile(powers, momenta.size)
    decay = evidence.s1 ** -powers[:, None]
    design = np.stack([np.ones_like(decay), decay, -evidence.s2[rows]], axis=2) * evidence.precision[:, None]
    sizes = np.sqrt(np.einsum("cni,cni->ci", design, design))
    sizes = np.where(sizes > 0, sizes, 1.0)
    design = design / sizes[:, None, :]
    target = evidence.losses * evidence.precision
    gram = np.einsum("cni,cnj->cij", design, design)
    linear, sse = _non_negative(design, target, gram, free_level=not evidence.logarithmic, known=known)
    n = target.size
    sse = sse + n * _RESOLUTION**2
    best = int(np.argmin(sse))
    worth = _losses_per_independent_loss(target - design[best] @ linear[best])
    chances = (sse / sse[best]) ** (-0.5 * max(n / worth - 2.0, 1.0))
    variances = sse / max(n - _PARAMETERS, 1) * worth
    covariances = variances[:, None, None] * np.linalg.pinv(gram, hermitian=True)
    covariances /= sizes[:, :, None] * sizes[:, None, :]
    return Grid(rows, powers, linear / sizes, covariances, sse, chances / chances.sum())


def _non_negative(
    design: FloatArray, target: FloatArray, gram: FloatArray, *, free_level: bool, known: bool
) -> tuple[FloatArray, FloatArray]:
    """Non-negative least squares for a batch of designs: of all sets of parameters that are not zero, the best.

    Args:
        design: (c, n, 3)
        target: (n,)
        gram: (c, 3, 3) the designs' products with themselves.
        free_level: whether the first parameter may be negative.
        known: whether the third one is not zero.

    Returns:
        (c, 3) and (c,), the parameters and the sums of squared residuals.
    """
    subsets = [(0,), (0, 1), *([(0, 2), (0, 1, 2)] if known else [])]
    if not free_level:
        subsets += [(1,), *([(1, 2)] if known else [])]
    moments = np.einsum("cni,n->ci", design, target)
    found, least = np.zeros(gram.shape[:2]), np.full(gram.shape[0], np.inf)
    for subset in subsets:
        columns = np.array(subset)
        tried = np.zeros_like(found)
        inner = gram[:, columns[:, None], columns]
        tried[:, columns] = np.linalg.solve(inner + _RIDGE * np.eye(columns.size), moments[:, columns, None])[..., 0]
        residuals = target - np.einsum("cni,ci->cn", design, tried)
        sse = np.einsum("cn,cn->c", residuals, residuals)
        allowed = (tried[:, 1:] >= 0).all(axis=1) & (free_level | (tried[:, 0] >= 0))
        better = allowed & (sse < least)
        found[better], least[better] = tried[better], sse[better]
    return found, least


def _losses_per_independent_loss(residuals: FloatArray) -> float:
    """(1 + r) / (1 - r): the variance of the mean of an AR(1) series over that of white noise."""
    power = float(residuals @ residuals) + residuals.size * _RESOLUTION**2
    correlation = min(max(float(residuals[1:] @ residuals[:-1]) / power, 0.0), _MOST_CORRELATION)
    return (1.0 + correlation) / (1.0 - correlation)


def starts(grid: Grid) -> list[Fitted]:
    """The best cell of each of the most promising momenta."""
    cells = [np.flatnonzero(grid.rows == row) for row in np.unique(grid.rows)]
    firsts = sorted((int(some[np.argmin(grid.sse[some])]) for some in cells), key=lambda cell: float(grid.sse[cell]))
    return [grid.fitted(cell) for cell in firsts[:POLISHED]]


def polished(evidence: Evidence, start: Fitted) -> Fitted:
    """The nearest least value of the published objective."""
    from scipy.optimize import minimize

    def objective(values: FloatArray) -> tuple[float, FloatArray]:
        level, amplitude, gain, power = values
        decay, s2 = evidence.s1**-power, evidence.s2[start.row]
        predicted = level + amplitude * decay - gain * s2
        slopes = np.stack([np.ones_like(decay), decay, -s2, -amplitude * decay * np.log(evidence.s1)])
        if evidence.logarithmic:
            predicted = np.maximum(predicted, _LEAST_PREDICTED)
            residuals, slopes = np.log(predicted / evidence.losses), slopes / predicted
        else:
            residuals = predicted - evidence.losses
        clipped = np.clip(residuals, -HUBER, HUBER)
        return _SCALE * float(clipped @ (residuals - clipped / 2)), _SCALE * (slopes @ clipped)

    least = 0.0 if evidence.logarithmic else None
    found = minimize(
        objective,
        (start.level, start.amplitude, start.gain, start.power),
        jac=True,
        method="L-BFGS-B",
        bounds=[(least, None), (0.0, None), (0.0, None), (float(POWERS[0]), float(POWERS[-1]))],
        options={"maxiter": POLISHING_ITERATIONS, "ftol": 1e-14, "gtol": 1e-10, "maxcor": 20},
    )
    level, amplitude, gain, power = found.x.tolist()
    return Fitted(start.row, level, amplitude, gain, power, objective=float(found.fun) / _SCALE)
