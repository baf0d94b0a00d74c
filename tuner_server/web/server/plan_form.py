"""What the form for a change of a job's plan asks for."""

from __future__ import annotations

from collections.abc import Mapping

import pydantic
from lrpilot.wire.text.plain_text import plain, refusal

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
    kind, reason = fields.get("kind", ""), plain(fields.get("reason", "")).strip()
    request_id = fields.get("request_id", "")
    if why := refusal(request_id):
        raise InvalidInputError.of("request_id", why)
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
