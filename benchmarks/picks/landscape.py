"""What a probe of any length and peak LR ends at, between those of a table.

Notation: x, the natural log of a peak LR; n, the steps of a probe that move the weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks.picks.table import Probe, ProbeKey, State
from tuner_server.core.forecast import FloatArray


class Surface:
    """A loss over n and x.

    Over x it is a monotone cubic (PCHIP) through the probes of a length, and beyond them that of the last one; over
    log n it is linear. Both are those of arsinh(loss / first loss): where training explodes, losses span many orders of
    magnitude, and between a sound one and such a one a curve of losses would soon lie far above the sound one. Between
    a probe that diverged and one that did not, the nearer one says which it is.
    """

    def __init__(self, lengths: Sequence[int], lrs: Sequence[float], losses: FloatArray, first: float) -> None:
        """Fits the curves.

        Args:
            lengths: (l,) n of the probes, rising.
            lrs: (k,) their peak LRs, rising.
            losses: (l, k); infinity for a probe that diverged.
            first: The loss before the first step, not 0.
        """
        self._unit = abs(first)
        self._log_lengths = np.log(lengths)
        self._x = np.log(lrs)
        self._sound = np.isfinite(losses)
        # A curve takes two points. With fewer, all of a length counts as diverged.
        self._sound &= self._sound.sum(axis=1, keepdims=True) > 1
        self._curves = [
            PchipInterpolator(self._x[sound], np.arcsinh(own[sound] / self._unit)) if sound.any() else None
            for sound, own in zip(self._sound, losses, strict=True)
        ]

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest x of the probes."""
        return float(self._x[0]), float(self._x[-1])

    def at(self, n_steps: int, x: FloatArray) -> FloatArray:
        """The loss (m,) after probes of `n_steps` at `x` (m,); infinity for diverged.

        Raises:
            ValueError: The table's probes are all shorter, or all longer.
        """
        log_n = math.log(n_steps)
        if not self._log_lengths[0] <= log_n <= self._log_lengths[-1]:
            raise ValueError(f"no probes of {n_steps} steps: the table has {np.exp(self._log_lengths).round()}")
        share, low = math.modf(np.interp(log_n, self._log_lengths, np.arange(len(self._log_lengths))))
        found = self._along(int(low), x)
        if share > 0.0:
            found = _between(found, self._along(int(low) + 1, x), share)
        loss: FloatArray = self._unit * np.sinh(found)
        return loss

    def _along(self, i: int, x: FloatArray) -> FloatArray:
        """arsinh(loss / first loss) (m,) at the table's `i`-th length."""
        curve, sound = self._curves[i], self._sound[i]
        if curve is None:
            return np.full_like(x, math.inf)
        nearest = np.abs(x[:, None] - self._x).argmin(axis=1)
        inside = np.clip(x, self._x[sound].min(), self._x[sound].max())
        return np.where(sound[nearest], curve(inside), math.inf)


def _between(low: FloatArray, high: FloatArray, share: float) -> FloatArray:
    """Values (m,) at `share` of the way from `low` to `high`; of the nearer one's where one is infinite."""
    found = np.where(share < 0.5, low, high)
    both = np.isfinite(low) & np.isfinite(high)
    found[both] = (1.0 - share) * low[both] + share * high[both]
    return found


@dataclass(frozen=True)
class Landscape:
    """All that probes from one state end at.

    Attributes:
        validation: Validation loss after the decay.
        held_out: Mean training loss of batches that the probe has not trained on.
        first_loss: Training loss before the first step.
        first_validation: Validation loss before the first step.
    """

    validation: Surface
    held_out: Surface
    first_loss: float
    first_validation: float


def landscapes(table: Mapping[ProbeKey, Probe]) -> dict[State, Landscape]:
    """The landscape of every state that has probes.

    Raises:
        ValueError: A state lacks a probe of one of its lengths and LRs.
    """
    by_state: dict[State, dict[tuple[int, float], Probe]] = defaultdict(dict)
    for key, probe in table.items():
        by_state[key.state][key.n_steps, key.lr] = probe
    return {state: _landscape(state, probes) for state, probes in by_state.items()}


def _landscape(state: State, probes: Mapping[tuple[int, float], Probe]) -> Landscape:
    lengths, lrs = sorted({n for n, _ in probes}), sorted({lr for _, lr in probes})
    missing = [(n, lr) for n in lengths for lr in lrs if (n, lr) not in probes]
    if missing:
        n, lr = missing[0]
        raise ValueError(f"{state}: the table lacks {len(missing)} probes, of them one of {n} steps at LR {lr:g}")
    rows = [[probes[n, lr] for lr in lrs] for n in lengths]
    first = rows[0][0]
    return Landscape(
        Surface(lengths, lrs, np.array([[p.validation for p in row] for row in rows]), first.first_validation),
        Surface(lengths, lrs, np.array([[p.held_out for p in row] for row in rows]), first.first_loss),
        first.first_loss,
        first.first_validation,
    )
