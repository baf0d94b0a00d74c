"""Why a run was annealed before its end, with the evidence: in sentences."""

from __future__ import annotations

from tuner_server.core.stop_evidence import Stopping
from tuner_server.history.words.numbers import count, number, steps, with_error


def stopping(evidence: Stopping, *, of_metric: bool = False) -> str:
    """What the run would have gained by going on, and how that is known.

    Args:
        evidence: of the decision to stop.
        of_metric: whether validations are minus a metric, which is shown with its own sign.
    """
    law, change = ("minus the metric is ", "raise the metric") if of_metric else ("", "lower the loss")
    end = f"after {steps(evidence.end_step)},"
    onward = f"As many steps again, to an end {end}" if evidence.open_ended else f"The planned end, {end}"
    gain, worth = with_error(evidence.gain, evidence.gain_sd), number(evidence.worth)
    last = _last(evidence, of_metric)
    sentences = (
        f"{onward} would {change} by {gain} more than an annealing at once.",
        f"Twice in a row that was, with 1.64 standard errors, no more than the {worth} that is worth it.",
        f"This is from the annealing law that fits the validations best, the last of which were {last}: "
        f"{law}{number(evidence.floor)} + {number(evidence.scale)} S1^-{number(evidence.exponent)} - "
        f"{number(evidence.annealing)} S2, where falls of the LR take effect over {steps(evidence.memory)}.",
        f"At a constant LR, however long, {_left(evidence.scale)} was left to gain by that law, and "
        f"{_left(evidence.layer)} by the learning trend of the same validations.",
    )
    return " ".join(sentences)


def _left(gain: float) -> str:
    return number(gain) if gain > 0 else "nothing"


def _last(evidence: Stopping, of_metric: bool) -> str:
    sign = -1.0 if of_metric else 1.0
    pairs = list(zip(evidence.losses, evidence.steps, strict=True))[-3:]
    return ", ".join(f"{number(sign * loss)} after step {count(step)}" for loss, step in pairs)
