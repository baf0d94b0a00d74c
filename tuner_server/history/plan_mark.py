"""Where a change of a run's plan took effect in its history."""

from __future__ import annotations

import dataclasses

from tuner_server.core.messages import ChangeOrigin, Outcome, PlanChange
from tuner_server.storage import Entry


@dataclasses.dataclass(frozen=True, slots=True)
class PlanMark:
    """A change of the plan, where it took effect."""

    change: PlanChange
    step: int
    """Steps that were run before it, search included."""
    committed_step: int
    """Committed steps before it, without those that were rolled back later."""
    undone: bool = False
    """Whether it is an annealing that was undone: its steps are rolled back."""


def overlooked(entry: Entry) -> bool:
    """Whether a client has not heard of the change in a directive, which takes effect later, then."""
    replaced = entry.report is not None and entry.report.outcome is Outcome.REPLACED
    change = entry.directive.change
    return replaced and change is not None and change.origin is not ChangeOrigin.CLIENT
