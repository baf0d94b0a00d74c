"""What the form for a change of a job's plan asks for."""

from __future__ import annotations

from collections.abc import Mapping

import pydantic

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import MAX_STEPS, ChangeKind, PlanChange

MOST_DIGITS = 13
"""Digits of the largest number of steps."""


def change_from_form(fields: Mapping[str, str]) -> PlanChange:
    """The change that somebody asks for.

    Args:
        fields: `kind` and, but for a new search, `steps`; `reason`, if there is one; and `request_id`, by which a form
            that is sent twice is known again.

    Raises:
        InvalidInputError: it can't be made.
    """
    kind, reason = fields.get("kind", ""), fields.get("reason", "").strip()
    request_id = fields.get("request_id", "")
    for field, text in (("reason", reason), ("request_id", request_id)):
        if "\0" in text:
            raise InvalidInputError.of(field, "a text without a NUL character")
    try:
        match kind:
            case "extend":
                numbers, asked = {"later_steps": _steps(fields)}, ChangeKind.EXTEND
            case "anneal":
                numbers, asked = {"anneal_steps": _steps(fields)}, ChangeKind.ANNEAL
            case "replan":
                numbers, asked = {}, ChangeKind.REPLAN
            case _:
                raise InvalidInputError.of("kind", f"extend, anneal or replan, not {kind[:40]!r}")
        return PlanChange(kind=asked, **numbers, reason=reason, request_id=request_id)
    except pydantic.ValidationError as error:
        raise InvalidInputError.from_pydantic(error) from error


def _steps(fields: Mapping[str, str]) -> int:
    """Raises: InvalidInputError: it is no number of steps."""
    text = fields.get("steps", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text) > 0):
        raise InvalidInputError.of("steps", f"a whole number of steps, 1 to {MAX_STEPS}, not {text[:40]!r}")
    return int(text)
