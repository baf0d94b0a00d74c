"""Changes of a run's plan, in the words of pages: who asked, and what became of the run."""

from __future__ import annotations

from collections.abc import Sequence

from tuner_server.core.job.state import JobState
from tuner_server.core.messages import ChangeKind, ChangeOrigin, PlanChange
from tuner_server.history.plan_mark import PlanMark
from tuner_server.history.words.numbers import count, number, steps

MOST_NAMED = 5
"""Changes that are told one by one; of more, the latest ones."""
_ASKED = {
    ChangeOrigin.CLIENT: "the training program asked for it",
    ChangeOrigin.OPERATOR: "somebody at the server asked for it",
    ChangeOrigin.POLICY: "the policy",
}


def mark_sentence(mark: PlanMark) -> str:
    """What became of the run at a mark, and who asked, as a sentence."""
    unit = "step" if mark.committed_step == 1 else "steps"
    undone = "; it was undone, and its steps are rolled back" if mark.undone else ""
    return f"After {count(mark.committed_step)} committed {unit}: {effect(mark.change)} ({who(mark.change)}){undone}."


def mark_label(mark: PlanMark) -> str:
    """What a chart says of a mark."""
    return f"{effect(mark.change)}, undone later" if mark.undone else effect(mark.change)


def effect(change: PlanChange) -> str:
    """What becomes of a run, such as `the end moved to step 2 400`; in lower case, with no full stop."""
    match change.kind:
        case ChangeKind.EXTEND:
            return (
                f"the end moved to step {count(change.total_steps)}" if change.total_steps else "the end was left open"
            )
        case ChangeKind.ANNEAL:
            return f"the LR anneals over {steps(change.anneal_steps or 0)}, which end the run"
        case ChangeKind.UNDO_ANNEALING:
            return "the annealing was undone, and the run went on from before it"
        case ChangeKind.REPLAN:
            batches = ""
            if change.batch_factor is not None:
                batches = f", for batches {number(change.batch_factor)} times as large"
            return f"the LR is planned anew{batches}"


def _wish(change: PlanChange) -> str:
    """What is asked for, such as `to end at step 2 400`."""
    match change.kind:
        case ChangeKind.EXTEND:
            if change.later_steps is not None:
                return f"to end {steps(change.later_steps)} later"
            return f"to end at step {count(change.total_steps)}" if change.total_steps else "to have no end"
        case ChangeKind.ANNEAL:
            return f"to anneal over {steps(change.anneal_steps or 0)}, and end"
        case ChangeKind.UNDO_ANNEALING:
            return "to undo the annealing"
        case ChangeKind.REPLAN:
            return "to plan the LR anew"


def sentence(change: PlanChange) -> str:
    """What became of a run, and who asked, as a sentence."""
    words = effect(change)
    return f"{words[0].upper()}{words[1:]} ({who(change)})."


def who(change: PlanChange) -> str:
    """Who asked for a change, with the reason that was given."""
    asked = _ASKED[change.origin]
    if change.origin is ChangeOrigin.POLICY and change.kind is ChangeKind.REPLAN:
        asked += ", as the losses had left what they were"
    return f"{asked}: {change.reason}" if change.reason else asked


def waiting(state: JobState) -> list[str]:
    """What was asked for and has not taken effect yet, as sentences; nothing of a job that has ended."""
    if not state.status.live:
        return []
    return [f"Waiting for the next report: {_wish(change)} ({who(change)})." for change in state.requested]


def told(state: JobState, marks: Sequence[PlanMark]) -> list[str]:
    """The changes of a plan as sentences: those that took effect, the latest ones at least, and those that wait."""
    left_out = len(marks) - MOST_NAMED
    more = [f"The plan had changed {count(left_out)} times before."] if left_out > 0 else []
    return [*more, *(mark_sentence(mark) for mark in marks[-MOST_NAMED:]), *waiting(state)]
