"""The multi-power law: the loss under any LR schedule, where each fall of the LR brings a gain that saturates.

Luo, Wen, Hu, Sun, Liu, Sun, Lyu, Chen 2025, "A multi-power law for loss curve prediction across learning rate
schedules", ICLR 2025, arXiv 2503.12811. With S(k, t) the sum of the LRs of steps k..t, the warm-up's among them:

    L(t) = level + amplitude * S(0, t)^-power
           - gain * sum over k = 1..t of (lr_(k-1) - lr_k) * G(lr_k^-exponent * S(k, t))
    G(x) = 1 - (1 + rate * x)^-saturation

The paper writes L0, A, alpha, B, C, beta and gamma, in this order. A warm-up's rises are part of the sum, and subtract.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tuner_server.core.laws.lr_path import FloatArray, IntArray

_LEAST_LR = 1e-12
"""An LR of zero has no negative power."""


class MultiPowerLaw(NamedTuple):
    """The law with its seven parameters."""

    level: float
    """L0: where the loss leads without end."""
    amplitude: float
    """A."""
    power: float
    """Alpha."""
    gain: float
    """B: loss per fall of the LR, once all of its gain is there."""
    rate: float
    """C: how soon the gain is there."""
    saturation: float
    """Beta: the power with which the gain saturates."""
    exponent: float
    """Gamma: how much longer the gain takes at a low LR."""

    def losses(self, lrs: FloatArray, steps: IntArray) -> FloatArray:
        """The predicted loss after each of some steps.

        It takes time in proportion to the steps at which the LR moved, for each loss: 50 to 200 show a curve.

        Args:
            lrs: (n,) the LR of every step, from 0 on, warm-up included.
            steps: (m,) whole numbers below n, where the LRs up to then are not all zero.
        """
        walked = np.cumsum(lrs)
        moved = np.flatnonzero(np.diff(lrs)) + 1
        falls, slowness = lrs[moved - 1] - lrs[moved], np.maximum(lrs[moved], _LEAST_LR) ** -self.exponent
        before = walked[moved - 1]
        gains = np.empty(steps.size)
        for i, step in enumerate(steps.tolist()):
            n = int(np.searchsorted(moved, step, side="right"))
            since = slowness[:n] * (walked[step] - before[:n])
            gains[i] = falls[:n] @ (1.0 - (1.0 + self.rate * since) ** -self.saturation)
        found: FloatArray = self.level + self.amplitude * walked[steps] ** -self.power - self.gain * gains
        return found


PUBLISHED = {
    "25M": MultiPowerLaw(3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    "100M": MultiPowerLaw(2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
    "400M": MultiPowerLaw(2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457),
}
"""The authors' fits for language models by their number of weights, at a peak LR of 3e-4."""
