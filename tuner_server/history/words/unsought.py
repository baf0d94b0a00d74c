"""What is said of committed steps that had no search before them, not for want of steps: their policy says why."""

from __future__ import annotations

from tuner_server.core.messages import Phase
from tuner_server.core.stages.committed import too_few
from tuner_server.history.stage import Stage
from tuner_server.history.words.numbers import number, steps


def unsought(stage: Stage) -> str:
    """Its LR, from the first to the last, for how many steps, and why; empty: it is no such stage."""
    directive = stage.directive
    if directive is None or directive.phase is not Phase.TRAIN or stage.replaced or stage.candidates:
        return ""
    if stage.retreats_from is not None or stage.change is not None or stage.unrepeatable or too_few(directive):
        return ""
    reason = directive.reason if stage.decision is None else stage.decision.reason
    lrs = f"LR {number(stage.lr)} was committed"
    if len(stage.lrs) > 1:
        lrs = f"LR {number(stage.lrs[0])} to begin with, and {number(stage.lrs[-1])} at last, were committed"
    words = f"{lrs} for {steps(stage.granted_steps)}, without a search{' of its own' if stage.index else ''}"
    words = f"{words}: {reason}." if reason else f"{words}."
    latest = stage.latest_reason
    return f"{words} At last: {latest}." if latest else words
