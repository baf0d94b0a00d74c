"""The annealing law: the loss under any LR schedule, from two areas of it.

Tissue, Wang, Wang 2024, "Scaling law with learning rate annealing", arXiv 2408.11029:

    L(s)  = level + amplitude * S1(s)^-power - gain * S2(s)
    S1(s) = sum of the LRs of steps 0..s
    S2(s) = sum of m_i, m_i = momentum * m_(i-1) + (lr_(i-1) - lr_i)

The paper writes L0, A, alpha, C and lambda. S1 is how far the run has walked. S2 is what falls of the LR have brought: not
at once, but over some 1 / (1 - momentum) steps.

How it is fitted. Both areas are divided by their largest magnitudes, so that all parameters have the size of a loss. For
given power and momentum the law is linear in the other three: a grid over both has non-negative least squares in closed
form inside, which never fails. The best of each promising momentum is polished with L-BFGS-B under the published
objective, a Huber loss of ln(observed) - ln(predicted); losses that may be zero or negative have no logarithm, and take
plain residuals in units of their spread.

Standard error. The grid is a posterior of power and momentum with the linear parameters profiled out: each cell weighs
sse^(-m/2), m being the number of independent residuals. The squared error of a prediction is the mean squared distance of
the cells' predictions from it, and the variance of each. It knows nothing of what the law leaves out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tuner_server.core.errors import UnfittableError
from tuner_server.core.laws.lr_path import FloatArray, IntArray, LrPath

MOMENTA = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
"""Values of lambda that the data choose from: memories of 10 to 1,000 steps."""
USUAL_MOMENTUM = 0.999
"""Lambda where no fall of the LR tells; the paper's."""
POWERS = np.geomspace(0.02, 4.0, 48)
"""Values of alpha on the grid, from nearly logarithmic to over at once."""
HUBER = 1e-3
"""Where the published objective turns from squares to magnitudes of residuals."""
FEWEST_POINTS = 8
"""Losses that five parameters and a standard error need at least."""
MOST_POINTS = 256
"""Losses that are fitted; of more, these are spread evenly, so that the time for a fit is bounded."""
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
_MOST_CORRELATION = 0.9
"""Lag-1 correlation of residuals beyond which a hundred points can't tell."""
_PARAMETERS = 5
_RIDGE = 1e-14
"""Keeps equations solvable whose columns are alike."""
_LEAST_PREDICTED = 1e-9
"""Of losses about 1; what the law predicts below it has no logarithm."""
_SCALE = 1e6
"""The objective is of the order 1e-5; in these units its optimizer does not stop too early."""
_LEAST_ANNEALED = 1e-9
"""The annealing area, in units of the LR's own area, below which the LR never fell."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Losses that were seen along a path of LRs."""

    path: LrPath
    steps: FloatArray
    """(n,) the steps of the losses, within the path."""
    losses: FloatArray
    """(n,) one at each step: validations, or training losses averaged over windows."""


class Prediction(NamedTuple):
    """A loss that the law predicts, and its standard error."""

    loss: float
    error: float
    """NaN where the LR falls, and the curves that were fitted knew no fall."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Grid:
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

    def likely(self) -> _Grid:
        """The cells that are not ruled out."""
        kept = np.flatnonzero(self.weights > _NEGLIGIBLE * self.weights.max())
        return _Grid(**{field.name: getattr(self, field.name)[kept] for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, eq=False)
class AnnealingLaw:
    """The law with its parameters, as `fit` finds them."""

    level: float
    """L0: where the loss leads without end."""
    amplitude: float
    """A, for S1 in LR times steps."""
    power: float
    """Alpha."""
    gain: float
    """C: loss per annealing area. 0 where it could not be told."""
    momentum: float
    """Lambda."""
    annealing_known: bool
    """Whether the curves had falls of the LR, which alone tell gain and momentum."""
    highest_lr: float
    """The highest LR of the curves. The law knows nothing of divergence: above it, nothing should be predicted."""
    n_points: int
    """Losses that were fitted."""
    residual: float
    """Root mean square of what the law leaves of the losses."""
    r_squared: float
    """Share of the losses' variance that it explains."""
    objective: float
    """The published objective, summed over points."""
    falls_only: bool
    """Whether rises of the LR add nothing."""
    _grid: _Grid
    _momenta: tuple[float, ...]
    """Those of the grid's rows."""
    _walked: float
    """What S1 was divided by in the grid."""
    _annealed: FloatArray
    """What S2 was divided by, for each of the momenta."""

    def losses(self, path: LrPath, steps: FloatArray) -> FloatArray:
        """The predicted loss at each of some steps of a path."""
        s1 = np.interp(steps, path.steps, path.area())
        s2 = np.interp(steps, path.steps, path.annealing_area(self.momentum, falls_only=self.falls_only))
        found: FloatArray = self.level + self.amplitude * s1**-self.power - self.gain * s2
        return found

    def predict(self, path: LrPath) -> Prediction:
        """The loss at the end of a path that goes on from the curves' beginning, with its standard error."""
        loss = float(self.losses(path, np.array([path.end], dtype=np.float64))[0])
        grid = self._grid
        walked = float(path.area()[-1])
        s2 = np.zeros(grid.rows.size)
        for row in np.unique(grid.rows).tolist():
            end = float(path.annealing_area(self._momenta[row], falls_only=self.falls_only)[-1])
            if not self.annealing_known and abs(end) > _LEAST_ANNEALED * walked:
                return Prediction(loss, math.nan)
            s2[grid.rows == row] = end / self._annealed[row]
        s1 = walked / self._walked
        at = np.stack([np.ones_like(s2), s1**-grid.powers, -s2], axis=1)
        distances = np.einsum("ci,ci->c", at, grid.linear) - loss
        variances = np.einsum("ci,cij,cj->c", at, grid.covariances, at)
        return Prediction(loss, float(np.sqrt(grid.weights @ (distances**2 + np.maximum(variances, 0.0)))))


@dataclasses.dataclass(frozen=True, eq=False)
class _Evidence:
    """What is fitted: areas in units of their largest, and losses."""

    s1: FloatArray
    """(n,)"""
    s2: FloatArray
    """(momenta, n)"""
    losses: FloatArray
    """(n,)"""
    logarithmic: bool
    """Whether residuals are differences of logarithms."""
    precision: FloatArray
    """(n,) the weights of residuals in least squares: a logarithm's are the loss's own, by the loss."""

    def reweighed(self, grid: _Grid) -> _Evidence:
        """The evidence for another round of least squares, in which what lies far from the best fit counts less."""
        cell = int(np.argmin(grid.sse))
        best = _Found(int(grid.rows[cell]), *grid.linear[cell].tolist(), float(grid.powers[cell]))
        plain = 1.0 / self.losses if self.logarithmic else np.ones_like(self.losses)
        distances = np.abs(plain * (self.losses - best.predict(self)))
        bound = max(_FAR * float(np.median(distances)), _RESOLUTION)
        return dataclasses.replace(
            self, precision=plain * np.sqrt(np.minimum(1.0, bound / np.maximum(distances, bound)))
        )


def fit(
    curves: Sequence[Curve],
    *,
    momenta: Sequence[float] = MOMENTA,
    falls_only: bool = False,
    logarithmic: bool | None = None,
) -> AnnealingLaw:
    """Fits the law to curves of one training, or of several that began alike.

    It takes some 20 milliseconds, however long the curves are.

    Args:
        curves: at least one, with eight losses or more together; those of a warm-up are better left out.
        momenta: the values of lambda to choose from.
        falls_only: whether rises of the LR add nothing to the annealing area; as published, they subtract from it.
        logarithmic: whether residuals are those of logarithms, as published; None: where all losses are positive. Only
            with plain residuals is the fit the same whatever the zero of the losses.

    Raises:
        UnfittableError: the losses are too few, not finite, or all at nearly the same place, or have no logarithms.
    """
    curves = [_thinned(curve, MOST_POINTS // len(curves)) for curve in curves]
    _refuse_unfit(curves, logarithmic)
    losses = np.concatenate([curve.losses for curve in curves])
    if logarithmic is None:
        logarithmic = bool((losses > 0).all())
    unit = float(losses.max() if logarithmic else np.ptp(losses)) or 1.0
    s1 = np.concatenate([np.interp(curve.steps, curve.path.steps, curve.path.area()) for curve in curves])
    s2 = np.stack([_annealed(curves, momentum, falls_only=falls_only) for momentum in momenta])
    known = _fell(curves, s1)
    if not known:
        momenta, s2 = (USUAL_MOMENTUM,), np.zeros((1, s1.size))
    annealed = np.abs(s2).max(axis=1)
    annealed = np.where(annealed > 0, annealed, 1.0)
    losses = losses / unit
    precision = 1.0 / losses if logarithmic else np.ones_like(losses)
    evidence = _Evidence(s1 / s1.max(), s2 / annealed[:, None], losses, logarithmic, precision)
    grid = _weighed(evidence, known=known)
    found = min((_polished(evidence, start) for start in _starts(grid)), key=lambda one: one.objective)
    residuals = losses - found.predict(evidence)
    return AnnealingLaw(
        level=unit * found.level,
        amplitude=unit * found.amplitude * float(s1.max()) ** found.power,
        power=found.power,
        gain=unit * found.gain / float(annealed[found.row]),
        momentum=float(momenta[found.row]),
        annealing_known=known,
        highest_lr=max(float(curve.path.lrs.max()) for curve in curves),
        n_points=losses.size,
        residual=unit * float(np.sqrt(np.mean(residuals**2))),
        r_squared=1.0 - float(residuals @ residuals) / (float(np.var(losses)) * losses.size or 1.0),
        objective=found.objective,
        falls_only=falls_only,
        _grid=dataclasses.replace(grid, linear=unit * grid.linear, covariances=unit**2 * grid.covariances),
        _momenta=tuple(momenta),
        _walked=float(s1.max()),
        _annealed=annealed,
    )


def _thinned(curve: Curve, most: int) -> Curve:
    """A curve with at most so many losses, evenly spread, the last one among them."""
    n = curve.steps.size
    if n <= max(most, 2):
        return curve
    kept = np.unique(np.linspace(0, n - 1, max(most, 2)).round().astype(np.int64))
    return Curve(curve.path, curve.steps[kept], curve.losses[kept])


def _refuse_unfit(curves: Sequence[Curve], logarithmic: bool | None) -> None:
    """Refuses what no law can be fitted to. Raises: UnfittableError: see `fit`."""
    for curve in curves:
        if curve.steps.shape != curve.losses.shape:
            raise UnfittableError(f"{curve.steps.size} steps have {curve.losses.size} losses: each step needs one")
        if not np.isfinite(curve.losses).all():
            raise UnfittableError("a loss is not finite: leave those out that are not")
        if curve.steps.size and not (curve.steps.min() >= 0 and curve.steps.max() <= curve.path.end):
            raise UnfittableError(f"a loss lies outside of its path of {curve.path.end + 1} steps")
    n_points = sum(curve.losses.size for curve in curves)
    if n_points < FEWEST_POINTS:
        raise UnfittableError(f"{n_points} losses are too few: the law needs {FEWEST_POINTS}")
    walked = np.concatenate([np.interp(curve.steps, curve.path.steps, curve.path.area()) for curve in curves])
    if walked.min() <= 0:
        raise UnfittableError("the LR is 0 up to one of the losses: leave out what comes before the first step")
    if np.unique(walked).size < FEWEST_POINTS // 2:
        raise UnfittableError("the losses lie at too few different sums of LRs: they show no curve")
    if logarithmic and min(float(curve.losses.min()) for curve in curves if curve.losses.size) <= 0:
        raise UnfittableError("a loss is not positive, and has no logarithm: use plain residuals")


def _fell(curves: Sequence[Curve], walked: FloatArray) -> bool:
    """Whether the LR fell before some of the losses. Rises alone can't tell what a fall brings."""
    return bool(_annealed(curves, USUAL_MOMENTUM, falls_only=True).max() > _LEAST_ANNEALED * walked.max())


def _annealed(curves: Sequence[Curve], momentum: float, *, falls_only: bool) -> FloatArray:
    """(n,) S2 at the losses of all curves."""
    areas = [
        np.interp(curve.steps, curve.path.steps, curve.path.annealing_area(momentum, falls_only=falls_only))
        for curve in curves
    ]
    return np.concatenate(areas)


@dataclasses.dataclass(frozen=True)
class _Found:
    """One fit of scaled areas: the row of its momentum, its parameters and its objective."""

    row: int
    level: float
    amplitude: float
    gain: float
    power: float
    objective: float = math.inf

    def predict(self, evidence: _Evidence) -> FloatArray:
        """(n,) scaled losses."""
        found: FloatArray = self.level + self.amplitude * evidence.s1**-self.power - self.gain * evidence.s2[self.row]
        return found


def _weighed(evidence: _Evidence, *, known: bool) -> _Grid:
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


def _on_grid(evidence: _Evidence, momenta: IntArray, powers: FloatArray, *, known: bool) -> _Grid:
    """The fits for some of the momenta and each of the powers, weighed."""
    rows, powers = (axis.ravel() for axis in np.meshgrid(momenta, powers, indexing="ij"))
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
    return _Grid(rows, powers, linear / sizes, covariances, sse, chances / chances.sum())


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


def _starts(grid: _Grid) -> list[_Found]:
    """The best cell of each of the most promising momenta."""
    cells = [np.flatnonzero(grid.rows == row) for row in np.unique(grid.rows)]
    firsts = sorted((int(some[np.argmin(grid.sse[some])]) for some in cells), key=lambda cell: float(grid.sse[cell]))
    return [
        _Found(int(grid.rows[cell]), *grid.linear[cell].tolist(), float(grid.powers[cell]))
        for cell in firsts[:POLISHED]
    ]


def _polished(evidence: _Evidence, start: _Found) -> _Found:
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
    return _Found(start.row, *found.x.tolist(), objective=float(found.fun) / _SCALE)
