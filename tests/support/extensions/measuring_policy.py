"""A policy that asks for all that its job can measure, and else is `budget`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tuner_server.core.messages import Directive, Phase, Report
from tuner_server.core.policies.base import Asking, Progress, Step
from tuner_server.core.policies.budget import Budget, BudgetState


class Measuring(Budget):
    """Decides as `budget` does, and keeps the reports that it is given."""

    name = "measuring"
    seen: ClassVar[list[tuple[Directive, Report]]] = []

    def start(self, progress: Progress) -> Asking[BudgetState]:
        """As `budget`."""
        return self._measured((yield from super().start(progress)))

    def advance(
        self, state: BudgetState, directive: Directive, report: Report, progress: Progress
    ) -> Asking[BudgetState]:
        """As `budget`."""
        self.seen.append((directive, report))
        return self._measured((yield from super().advance(state, directive, report, progress)))

    def rejoin(self, state: BudgetState, progress: Progress) -> Asking[BudgetState]:
        """As `budget`."""
        return self._measured((yield from super().rejoin(state, progress)))

    def without_search(self, state: BudgetState, progress: Progress, reason: str) -> Step[BudgetState]:
        """As `budget`."""
        return self._measured(super().without_search(state, progress, reason))

    def _measured(self, step: Step[BudgetState]) -> Step[BudgetState]:
        if step.directive.phase is Phase.STOP:
            return step
        directive = step.directive.model_copy(update={"measures": self.config.measures})
        return dataclasses.replace(step, directive=directive)
