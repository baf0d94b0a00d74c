"""Why a run was annealed before its end, with the evidence: in sentences."""

from __future__ import annotations

from tuner_server.core.stop_evidence import Stopping
from tuner_server.history.numbers import count, number, steps, told_apart, with_error


def stopping(evidence: Stopping) -> str:
    """What the run would have gained by going on, and how that is known."""
    once, end = told_apart(evidence.at_once, evidence.at_end)
    onward = (
        f"with as many steps again, to step {count(evidence.end_step)},"
        if evidence.open_ended
        else (f"at the planned end, after {steps(evidence.end_step)},")
    )
    sentences = (
        f"Annealed at once, the loss was expected to come to {once}; {onward} to {end}.",
        f"That gain, {with_error(evidence.gain, evidence.gain_sd)}, was held against the {number(evidence.worth)} "
        "that is worth going on for: twice in a row it was less by 1.64 standard errors.",
        f"At a constant LR {number(evidence.layer)} was left to gain.",
        f"This is from the annealing law that fits the validations best, the last of which were {_last(evidence)}: "
        f"{number(evidence.floor)} + {number(evidence.scale)} S1^-{number(evidence.exponent)} - "
        f"{number(evidence.annealing)} S2, where falls of the LR take effect over {steps(evidence.memory)}.",
    )
    return " ".join(sentences)


def _last(evidence: Stopping) -> str:
    pairs = list(zip(evidence.losses, evidence.steps, strict=True))[-3:]
    return ", ".join(f"{number(loss)} after step {count(step)}" for loss, step in pairs)
