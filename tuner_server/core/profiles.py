"""Shapes and profiles of LRs as values of the core: a shape is its text in JSON, as in options and files."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import pydantic
from lrpilot.wire.profile import Profile, Shape

SMALLEST_PEAK = 1e-6
"""The highest weight of a decay is no less: below that nothing is trained at the LR that was found."""
_STEPS = 1024
"""Steps over which the highest weight is looked for."""


def _shape(value: Any) -> Any:
    """The shape of a text, or a shape. Raises: ValueError: it is neither."""
    if isinstance(value, Shape):
        return value
    if not isinstance(value, str):
        raise ValueError("a shape is a text; give a name, as linear, or rex(0.9)")
    return _parsed(value)


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Shape:
    """The shape of a text: a history has few, each in hundreds of entries. Raises: ValueError: it is none."""
    return Shape.parse(text)


def _leads_to_zero(shape: Shape) -> Shape:
    """Refuses a shape that is no way from an LR to zero. Raises: ValueError."""
    shape.weight(1.0)
    highest = Profile(shape, 1.0, 0.0, _STEPS).highest_lr(_STEPS) or 0.0
    if highest < SMALLEST_PEAK:
        raise ValueError(f"{shape}: the highest weight of a decay is {SMALLEST_PEAK:g} or more, and not {highest:g}")
    return shape


def _profile(value: Any) -> Any:
    """The fields of a profile with its shape's text read; anything else is left as it is."""
    return {**value, "shape": _shape(value["shape"])} if isinstance(value, dict) and "shape" in value else value


def _plain(profile: Profile, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
    """The fields of a profile with its shape as text."""
    return {**handler(profile), "shape": str(profile.shape)}


ShapeField = Annotated[Shape, pydantic.BeforeValidator(_shape), pydantic.PlainSerializer(str, return_type=str)]
"""A shape, which is a text such as `rex(0.9)` in JSON."""
DecayField = Annotated[ShapeField, pydantic.AfterValidator(_leads_to_zero)]
"""A shape that may lead from an LR to zero."""
ProfileField = Annotated[Profile, pydantic.BeforeValidator(_profile), pydantic.WrapSerializer(_plain)]
"""A profile whose shape is a text in JSON."""
