"""Which weights a run ended with, in a sentence."""

from __future__ import annotations

from tuner_server.core.messages import Ending, Weights
from tuner_server.history.words.numbers import number, steps, told_apart


def ended_with(ending: Ending | None, *, of_metric: bool = False) -> str:
    """The weights that the model was left with, and what both validated at; empty: there was no average.

    Args:
        ending: the end.
        of_metric: whether validations are minus a metric, which is shown with its own sign.
    """
    if ending is None:
        return ""
    averaged, kept = f"the average of the last {steps(round(ending.memory_steps))}", ending.adopted is Weights.LAST
    sign = -1.0 if of_metric else 1.0
    if ending.average is None:
        return (
            "The last weights stayed: their average has no validation."
            if kept
            else f"{_capital(averaged)} was adopted."
        )
    if ending.last is None:
        against = "the last weights have no validation"
        return f"{_capital(averaged)} was adopted: it validated at {number(sign * ending.average)}; {against}."
    mean, last = told_apart(sign * ending.average, sign * ending.last)
    if kept:
        return f"The last weights stayed: they validated at {last}, {averaged} at {mean}."
    return f"{_capital(averaged)} was adopted: it validated at {mean}, the last weights at {last}."


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
