"""A training whose losses follow the annealing law, so that it is known what any rest of it would give."""

from __future__ import annotations

import dataclasses
import math

from tests.support.jobs.simulated_training import NOISE_PERIOD, START, SimulatedTraining, Weights, float32

LEVEL, AMPLITUDE, POWER, GAIN, MOMENTUM = 0.5, 0.6, 0.4, 0.02, 0.98


@dataclasses.dataclass(frozen=True, slots=True)
class AnnealedWeights(Weights):
    """Weights that know how far they were walked, and what falls of the LR have brought them."""

    walked: float = 0.0
    momentum: float = 0.0
    annealed: float = 0.0
    lr: float | None = None


class AnnealingTraining(SimulatedTraining):
    """Its loss without noise is `LEVEL + AMPLITUDE * S1^-POWER - GAIN * S2`, but no more than what it starts with."""

    def __init__(self, seed: int = 0, *, noise: float = 0.02, validates: bool = False) -> None:
        super().__init__(seed, noise=noise, validates=validates)
        self.weights: Weights = AnnealedWeights()
        self._snapshot = self.weights

    @property
    def _walk(self) -> AnnealedWeights:
        assert isinstance(self.weights, AnnealedWeights)
        return self.weights

    def loss(self) -> float:
        """The law's loss."""
        walk = self._walk
        if walk.heat > 200:
            return math.nan
        if not walk.walked:
            return START
        return min(LEVEL + AMPLITUDE * math.pow(walk.walked, -POWER) - GAIN * walk.annealed, START)

    def _step(self, lr: float) -> float:
        walk = self._walk
        loss = float32(self.loss() * (1.0 + self._noise[walk.position % NOISE_PERIOD]))
        fall = max((lr if walk.lr is None else walk.lr) - lr, 0.0)  # a warm-up anneals nothing
        momentum = MOMENTUM * walk.momentum + fall
        self.weights = AnnealedWeights(
            progress=walk.progress,
            heat=walk.heat + 1 if lr > self.edge_lr else 0,
            position=walk.position + 1,
            n_lrs=walk.n_lrs + 1,
            walked=walk.walked + lr,
            momentum=momentum,
            annealed=walk.annealed + momentum,
            lr=lr,
        )
        self.lrs.append(lr)
        self.n_run += 1
        return loss
