"""Trainings that fall short of what their probes promised, at finite losses."""

from __future__ import annotations

import dataclasses

from tests.support.jobs.simulated_training import START, SimulatedTraining
from tuner_server.core.messages import Directive, Report, Validation

DEADLY_TWICE = 0.009
"""An LR that the one which a search finds is above, and the next lower one too, but not the one after that."""
DEAD = -1e-9
"""Progress of a network that has died: its loss is what it began with."""


class DyingTraining(SimulatedTraining):
    """Probes are too short to do harm; in committed steps an LR above `deadly_lr` kills the network."""

    def __init__(self, seed: int = 0, *, deadly_lr: float = 0.03, validates: bool = False) -> None:
        super().__init__(seed, validates=validates)
        self.deadly_lr = deadly_lr
        self._committing = False

    def run(self, directive: Directive) -> Report:
        """Carries out a directive, or its next part."""
        self._committing = directive.phase.committed
        return super().run(directive)

    def _step(self, lr: float) -> float:
        dies = self.weights.progress < 0 or (self._committing and lr > self.deadly_lr)
        loss = super()._step(lr)
        if dies:
            self.weights = dataclasses.replace(self.weights, progress=DEAD)
        return loss


class OverfittingTraining(SimulatedTraining):
    """Its validations of committed steps at a peak above `harmful_lr` show nothing of what is learnt."""

    def __init__(self, seed: int = 0, *, harmful_lr: float = 0.03) -> None:
        super().__init__(seed, validates=True)
        self.harmful_lr = harmful_lr

    def _validation(self, directive: Directive, step: int) -> list[Validation]:
        found = super()._validation(directive, step)
        if not directive.phase.committed or directive.profile is None or directive.profile.start_lr <= self.harmful_lr:
            return found
        return [Validation(step=validation.step, loss=START) for validation in found]
