"""A training run whose rollback is not complete, and whose client says so."""

from __future__ import annotations

from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.core.messages import Directive, Outcome, Phase, Report

NOTE = "the first loss is 2.31 and was 2.5: something that training changes is not registered"


class LeakingTraining(SimulatedTraining):
    """Its probes do not begin where the first one began, once so many of them have been carried out."""

    def __init__(
        self,
        seed: int = 0,
        *,
        sound_probes: int = 1,
        edge_lr: float = 0.6,
        validates: bool = False,
        note: str = NOTE,
    ) -> None:
        super().__init__(seed, edge_lr=edge_lr, validates=validates)
        self._sound_probes, self._note = sound_probes, note

    def run(self, directive: Directive) -> Report:
        """Carries out a directive; gives a probe up that is not like the first."""
        if directive.phase is not Phase.PROBE:
            return super().run(directive)
        self._sound_probes -= 1
        if self._sound_probes >= 0:
            return super().run(directive)
        self.prepare(directive)
        assert directive.profile is not None
        losses = (self._step(directive.profile.lr(0)),)
        return Report(directive_number=directive.number, outcome=Outcome.UNREPEATABLE, losses=losses, note=self._note)
