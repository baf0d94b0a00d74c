"""A training run whose loss keeps the annealing law, for tests of what is judged by that."""

from __future__ import annotations

import math

from tests.support.jobs.simulated_training import SimulatedTraining, float32
from tuner_server.core.messages import Directive, Validation


class LawTraining(SimulatedTraining):
    """Its loss is `floor` + `scale` max(S1, 1)^-`alpha` - `annealing` S2, with so many steps of `memory`.

    Rises of the LR add nothing to S2: as in the published fit, a warm-up anneals nothing.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        floor: float = 1.0,
        scale: float = 2.0,
        alpha: float = 0.5,
        annealing: float = 0.02,
        memory: int = 50,
        noise: float = 0.002,
        shift: float = 0.0,
        factor: float = 1.0,
    ) -> None:
        super().__init__(seed, noise=noise, validates=True, edge_lr=float("inf"))
        self.floor, self.scale, self.alpha, self.annealing = floor, scale, alpha, annealing
        self.shift, self.factor, self.memory = shift, factor, memory
        self._course: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]
        """S1, S2 and the momentum after each step that is in the model."""

    def loss(self) -> float:
        """The loss of the present weights, without noise."""
        walked, annealed, _ = self._course[len(self.lrs)]
        loss = self.floor + self.scale * math.pow(max(walked, 1.0), -self.alpha) - self.annealing * annealed
        return self.factor * loss + self.shift

    def _step(self, lr: float) -> float:
        noise = self.factor * self._noise[self.weights.position % len(self._noise)]
        loss = float32(self.loss() + noise)
        del self._course[len(self.lrs) + 1 :]
        self._course.append(self._onward(self._course[-1], self.lrs[-1] if self.lrs else lr, lr))
        super()._step(lr)
        return loss

    def _onward(self, before: tuple[float, float, float], last: float, lr: float) -> tuple[float, float, float]:
        walked, annealed, falling = before
        falling = (1.0 - 1.0 / self.memory) * falling + max(last - lr, 0.0)
        return walked + lr, annealed + falling, falling

    def _validation(self, directive: Directive, step: int) -> list[Validation]:
        noise = self.factor * self._noise[(7 * self.weights.position + 1) % len(self._noise)]
        return [Validation(step=step, loss=float32(self.loss() + noise))] if step in directive.validate_at else []
