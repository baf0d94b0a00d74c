"""What the form for a change of a job's plan asks for."""

from __future__ import annotations

from collections.abc import Mapping

import pydantic

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import MAX_STEPS, ChangeKind, PlanChange

MOST_DIGITS = 13
"""Digits of the largest number of steps."""


def change_from_form(fields: Mapping[str, str], state: JobState) -> PlanChange:
    """The change that somebody asks for.

    Args:
        fields: `kind` and, but for a new search, `steps`; and `reason`, if there is one.
        state: the job's, whose end is moved from where it is planned, with the changes that wait.

    Raises:
        InvalidInputError: it can't be made.
    """
    kind, reason = fields.get("kind", ""), fields.get("reason", "").strip()
    if "\0" in reason:
        raise InvalidInputError.of("reason", "a text without a NUL character")
    try:
        match kind:
            case "extend":
                end = state.asked_total_steps
                if end is None:
                    raise InvalidInputError.of("kind", "the job has no end that could be moved; anneal gives it one")
                return PlanChange(kind=ChangeKind.EXTEND, total_steps=end + _steps(fields), reason=reason)
            case "anneal":
                return PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=_steps(fields), reason=reason)
            case "replan":
                return PlanChange(kind=ChangeKind.REPLAN, reason=reason)
    except pydantic.ValidationError as error:
        raise InvalidInputError.from_pydantic(error) from error
    raise InvalidInputError.of("kind", f"extend, anneal or replan, not {kind[:40]!r}")


def _steps(fields: Mapping[str, str]) -> int:
    """Raises: InvalidInputError: it is no number of steps."""
    text = fields.get("steps", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) > 0):
        raise InvalidInputError.of("steps", f"a whole number of steps, 1 to {MAX_STEPS}, not {text[:40]!r}")
    return int(text)
