"""What going on would gain: one loss curve's annealing law, for every memory and exponent that it leaves possible.

The annealing law (Tissue, Wang, Wang 2024, arXiv 2408.11029) has the loss after s steps at

    L(s) = L0 + A S1(s)^-alpha - C S2(s)

with S1 the area under the LR and S2 what the falls of the LR have brought by then, with a momentum lambda. The loss if
the run is annealed at once, less the loss at its planned end, is a difference of two such values: L0 is not in it, and
it is far better known than either.

A single curve says little of lambda and alpha, and less of C before its LR has fallen. So no one fit is taken. For
given lambda and alpha the law is linear: each pair of a grid has its least squares, its gain and the gain's error, and
counts by its likelihood. The spread of all of them is the standard error. There is no search, nothing that could fail
to converge, and the time is the same for every curve.

Everything moves with a shift of the losses, scales with them, and does not change with a factor on all LRs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ALPHAS = np.geomspace(0.1, 2.0, 20)
"""Exponents of the law that are possible."""
FEWEST = 8
"""Losses that tell anything of a law with five parameters."""
INDEPENDENT = 0.5
"""Neighbouring validations err alike, and the law itself errs: the errors count as this part of so many."""
SMALLEST = 1e-12
"""Relative to the losses' range: no curve is smoother."""


@dataclasses.dataclass(frozen=True, slots=True)
class Areas:
    """What the annealing law knows of a moment of a run.

    Attributes:
        walked: S1, the area under the LR so far, above 0.
        annealed: S2, one value for every momentum that is possible.
    """

    walked: float
    annealed: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Gain:
    """What going on to a planned end would gain over annealing at once.

    Attributes:
        at_once: the loss expected at the end of an annealing that begins at once.
        at_end: the loss expected at the planned end.
        sd: the standard error of their difference.
        floor: L0 of the likeliest law.
        scale: A of it, for S1 in units of that of the last loss: what was still to be gained there without annealing.
        exponent: alpha of it.
        annealing: C of it.
        momentum: which of the possible momenta it has.
    """

    at_once: float
    at_end: float
    sd: float
    floor: float
    scale: float
    exponent: float
    annealing: float
    momentum: int

    @property
    def gain(self) -> float:
        """How much lower the loss would be at the planned end."""
        return self.at_once - self.at_end


def gain(seen: Sequence[Areas], losses: Sequence[float], at_once: Areas, at_end: Areas) -> Gain | None:
    """What a run would gain by going on to its planned end.

    Args:
        seen: where the run was at each of its losses, the latest last.
        losses: finite.
        at_once: where it would be if it were annealed at once.
        at_end: where it would be at its planned end.

    Returns:
        None if there are too few losses, or none that differ.
    """
    if len(losses) < FEWEST or not np.ptp(losses) > 0:
        return None
    level, extent = float(np.mean(losses)), float(np.ptp(losses))
    y = (np.asarray(losses, float) - level) / extent
    walked = np.array([areas.walked for areas in seen]) / seen[-1].walked
    full = np.maximum(np.array(at_end.annealed), np.array(at_once.annealed))  # what a whole annealing brings
    full = np.where(full > 0, full, 1.0)
    annealed = np.array([areas.annealed for areas in seen]) / full
    design = _columns(walked, annealed.T)
    # That all of an annealing brings about as much as all that was seen is known beforehand, and is no more than that.
    noise = max(float(np.mean(np.diff(y, 2) ** 2)) / 6.0, SMALLEST)
    coefficients, squares, inverse = _least_squares(design, y, np.array([0.0, 0.0, noise]))
    ends = [
        _columns(np.array([a.walked / seen[-1].walked]), (np.array(a.annealed) / full)[:, None])
        for a in (at_once, at_end)
    ]
    now, then = ends[0][..., 0, :], ends[1][..., 0, :]
    effective = max(INDEPENDENT * len(y), FEWEST / 2)
    variance = squares / (effective - 3.0)
    weights = np.exp(-0.5 * effective * (np.log(squares) - np.log(squares.min())))
    weights /= weights.sum()
    expected = np.einsum("lac,lac->la", now - then, coefficients)
    spread = variance * np.einsum("lac,lacd,lad->la", now - then, inverse, now - then)
    mean = float((weights * expected).sum())
    sd = float(np.sqrt((weights * (spread + (expected - mean) ** 2)).sum()))
    end = float((weights * np.einsum("lac,lac->la", then, coefficients)).sum())
    best = np.unravel_index(int(squares.argmin()), squares.shape)
    floor, scale, brought = coefficients[best]
    return Gain(
        at_once=level + extent * (end + mean),
        at_end=level + extent * end,
        sd=extent * sd,
        floor=level + extent * float(floor),
        scale=extent * float(scale),
        exponent=float(ALPHAS[best[1]]),
        annealing=extent * float(brought) / float(full[best[0]]),
        momentum=int(best[0]),
    )


def _columns(walked: Array, annealed: Array) -> Array:
    """The law's three columns, by momentum, exponent and moment: those of L0, A and C."""
    powers = walked[None, :] ** -ALPHAS[:, None]
    shape = (len(annealed), *powers.shape)
    falls = np.broadcast_to(-annealed[:, None, :], shape)
    return np.stack([np.ones(shape), np.broadcast_to(powers, shape), falls], axis=-1)


def _least_squares(design: Array, y: Array, ridge: Array) -> tuple[Array, Array, Array]:
    """For each law of the grid: its coefficients with A and C not negative, its squared errors, and the inverse.

    The inverse is that without the two conditions: a coefficient at its limit is no better known than another one.
    """
    gram = np.einsum("lamc,lamd->lacd", design, design) + np.diag(ridge + SMALLEST)
    moments = np.einsum("lamc,m->lac", design, y)
    best = np.zeros_like(moments)
    lowest = np.full(moments.shape[:-1], np.inf)
    for kept in ([0, 1, 2], [0, 1], [0, 2], [0]):
        part = np.zeros_like(moments)
        part[..., kept] = np.linalg.solve(gram[..., kept, :][..., :, kept], moments[..., kept, None])[..., 0]
        errors = ((np.einsum("lamc,lac->lam", design, part) - y) ** 2).sum(-1) + (ridge * part**2).sum(-1)
        better = (part[..., 1:] >= 0).all(-1) & (errors < lowest)
        best[better], lowest[better] = part[better], errors[better]
    return best, np.maximum(lowest, SMALLEST), np.linalg.inv(gram)
