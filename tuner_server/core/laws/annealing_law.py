"""The annealing law: the loss under any LR schedule, from two areas of it.

Tissue, Wang, Wang 2024, "Scaling law with learning rate annealing", arXiv 2408.11029:

    L(s)  = level + amplitude * S1(s)^-power - gain * S2(s)
    S1(s) = sum of the LRs of steps 0..s
    S2(s) = sum of m_i, m_i = momentum * m_(i-1) + (lr_(i-1) - lr_i)

The paper writes L0, A, alpha, C and lambda. S1 is how far the run has walked. S2 is what falls of the LR have brought:
not at once, but over some 1 / (1 - momentum) steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tuner_server.core.laws.annealing_grid import Evidence, Grid, polished, starts, weighed
from tuner_server.core.laws.curve import Curve, UnfittableError
from tuner_server.core.laws.lr_path import FloatArray, LrPath

MOMENTA = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
"""Values of lambda that the data choose from: memories of 10 to 1,000 steps."""
USUAL_MOMENTUM = 0.999
"""Lambda where no fall of the LR tells; the paper's."""
FEWEST_POINTS = 8
"""Losses that five parameters and a standard error need at least."""
MOST_POINTS = 160
"""Losses that are fitted; of more, these are spread evenly, so that the time for a fit is bounded."""
_LARGEST = 1e50
"""Losses and sums of LRs below it have powers that are numbers; so have sums above its inverse."""
_LEAST_WALKED = 1e-9
"""The part of S1 that a loss has at least, so that all powers of it are numbers."""
_LEAST_ANNEALED = 1e-9
"""The annealing area, in units of the LR's own area, below which the LR never fell."""


class Prediction(NamedTuple):
    """A loss that the law predicts, and its standard error."""

    loss: float
    error: float
    """NaN where the LR falls, and the curves that were fitted knew no fall."""


class _Scales(NamedTuple):
    """What the evidence was divided by, so that all of it is about 1."""

    unit: float
    """For losses."""
    walked: float
    """For S1."""
    annealed: FloatArray
    """(momenta,) for S2."""


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
    _grid: Grid
    _momenta: tuple[float, ...]
    """Those of the grid's rows."""
    _scales: _Scales

    def losses(self, path: LrPath, steps: FloatArray) -> FloatArray:
        """The predicted loss at each of some steps of a path."""
        s1 = np.interp(steps, path.steps, path.area())
        s2 = np.interp(steps, path.steps, path.annealing_area(self.momentum, falls_only=self.falls_only))
        found: FloatArray = self.level + self.amplitude * s1**-self.power - self.gain * s2
        return found

    def predict(self, path: LrPath, step: int | None = None) -> Prediction:
        """The loss after a step (None: the last) of a path that begins as the curves did, and its standard error."""
        at = np.array([path.end if step is None else step], dtype=np.float64)
        loss = float(self.losses(path, at)[0])
        walked = float(np.interp(at, path.steps, path.area())[0])
        errors = []
        for row, cells in self._grid.by_momentum():
            area = path.annealing_area(self._momenta[row], falls_only=self.falls_only)
            s2 = float(np.interp(at, path.steps, area)[0])
            if not self.annealing_known and abs(s2) > _LEAST_ANNEALED * walked:
                return Prediction(loss, math.nan)
            errors.append(cells.distance(walked / self._scales.walked, s2 / self._scales.annealed[row], loss))
        return Prediction(loss, max(errors))

    def difference(self, first: LrPath, second: LrPath, prior: float, momenta: Sequence[float] = MOMENTA) -> Prediction:
        """How much higher the loss is at the end of one path than at the end of another, with its standard error.

        Both go on from the curves' beginning. The level is not in the difference, and it is far better known than
        either loss.

        Args:
            first: the one path.
            second: the other one.
            prior: the size of what an annealing from the highest LR to zero brings, as far as that is known beforehand.
                It counts the more, the less the curves tell of annealing.
            momenta: those that are possible where the curves tell none.
        """
        known = self.annealing_known
        momenta = self._momenta if known else momenta
        wholes = np.array([self.highest_lr / (1.0 - momentum) for momentum in momenta])
        areas = np.array([self._end(first, momentum) - self._end(second, momentum) for momentum in momenta])
        s1, other = (float(path.area()[-1]) / self._scales.walked for path in (first, second))
        if not known:
            loss, error = self._grid.difference(s1, other, np.zeros(1))
            return Prediction(loss, math.hypot(error, prior * float(np.abs(areas / wholes).max())))
        unit = self._scales.annealed
        return Prediction(*self._grid.with_prior(prior * unit / wholes).difference(s1, other, areas / unit))

    def _end(self, path: LrPath, momentum: float) -> float:
        """S2 at the end of a path."""
        return float(path.annealing_area(momentum, falls_only=self.falls_only)[-1])


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
        ValueError: a momentum is negative, or 1 or more.
    """
    if not all(0 <= momentum < 1 for momentum in momenta):
        raise ValueError(f"momenta: {tuple(momenta)} are not all from 0 to below 1")
    _refuse_unfit(curves, logarithmic)
    curves = [curve.thinned(MOST_POINTS // len(curves)) for curve in curves]
    known = _fell(curves)
    if not known:
        momenta = (USUAL_MOMENTUM,)
    with np.errstate(under="ignore"):
        evidence, scales = _scaled(curves, momenta, falls_only, logarithmic)
        return _fitted(evidence, scales, curves, momenta, known=known, falls_only=falls_only)


def _fitted(
    evidence: Evidence,
    scales: _Scales,
    curves: Sequence[Curve],
    momenta: Sequence[float],
    *,
    known: bool,
    falls_only: bool,
) -> AnnealingLaw:
    """The law that fits best, in the units of the losses and the LRs."""
    grid = weighed(evidence, known=known)
    found = min((polished(evidence, start) for start in starts(grid)), key=lambda one: one.objective)
    residuals = evidence.losses - found.predict(evidence)
    unit = scales.unit
    return AnnealingLaw(
        level=unit * found.level,
        amplitude=unit * found.amplitude * scales.walked**found.power,
        power=found.power,
        gain=unit * found.gain / float(scales.annealed[found.row]),
        momentum=float(momenta[found.row]),
        annealing_known=known,
        highest_lr=max(float(curve.path.lrs.max()) for curve in curves),
        n_points=residuals.size,
        residual=unit * float(np.sqrt(np.mean(residuals**2))),
        r_squared=1.0 - float(residuals @ residuals) / (float(np.var(evidence.losses)) * residuals.size or 1.0),
        objective=found.objective,
        falls_only=falls_only,
        _grid=dataclasses.replace(grid, linear=unit * grid.linear, covariances=unit**2 * grid.covariances),
        _momenta=tuple(momenta),
        _scales=scales,
    )


def _scaled(
    curves: Sequence[Curve], momenta: Sequence[float], falls_only: bool, logarithmic: bool | None
) -> tuple[Evidence, _Scales]:
    """What is fitted, all of it about 1, and what it was divided by."""
    losses = np.concatenate([curve.losses for curve in curves])
    if logarithmic is None:
        logarithmic = bool((losses > 0).all())
    unit = float(losses.max() if logarithmic else np.ptp(losses)) or 1.0
    losses = losses / unit
    s1 = np.concatenate([curve.walked() for curve in curves])
    s2 = np.stack([_annealed(curves, momentum, falls_only=falls_only) for momentum in momenta])
    largest = np.abs(s2).max(axis=1)
    scales = _Scales(unit, float(s1.max()), np.where(largest > 0, largest, 1.0))
    walked = np.maximum(s1 / scales.walked, _LEAST_WALKED)
    evidence = Evidence(walked, s2 / scales.annealed[:, None], losses, logarithmic)
    return evidence, scales


def _refuse_unfit(curves: Sequence[Curve], logarithmic: bool | None) -> None:
    """Refuses what no law can be fitted to. Raises: UnfittableError: see `fit`."""
    for curve in curves:
        curve.refuse_unfit()
    n_points = sum(curve.losses.size for curve in curves)
    if n_points < FEWEST_POINTS:
        raise UnfittableError(f"{n_points} losses are too few: the law needs {FEWEST_POINTS}")
    walked = np.concatenate([curve.walked() for curve in curves])
    largest = max(float(np.abs(curve.losses).max(initial=0.0)) for curve in curves)
    if largest > _LARGEST or not 1 / _LARGEST < walked.max() < _LARGEST:
        raise UnfittableError("the losses or the LRs are too large or too small to be compared")
    if np.unique(walked).size < FEWEST_POINTS // 2:
        raise UnfittableError("the losses lie at too few different sums of LRs: they show no curve")
    if logarithmic and min(float(curve.losses.min()) for curve in curves if curve.losses.size) <= 0:
        raise UnfittableError("a loss is not positive, and has no logarithm: use plain residuals")


def _fell(curves: Sequence[Curve]) -> bool:
    """Whether the LR fell before some of the losses. Rises alone can't tell what a fall brings."""
    walked = max(float(curve.walked().max()) for curve in curves)
    return bool(_annealed(curves, USUAL_MOMENTUM, falls_only=True).max() > _LEAST_ANNEALED * walked)


def _annealed(curves: Sequence[Curve], momentum: float, *, falls_only: bool) -> FloatArray:
    """(n,) S2 at the losses of all curves."""
    return np.concatenate([curve.annealed(momentum, falls_only=falls_only) for curve in curves])
