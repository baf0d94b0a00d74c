"""Shapes and profiles of LRs as values of the core: a shape is its text in JSON, as in options and files."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from lrpilot.wire.profile import Profile, Shape


def _shape(value: Any) -> Any:
    """The shape of a text; anything else is left to be refused."""
    return Shape.parse(value) if isinstance(value, str) else value


def _leads_to_zero(shape: Shape) -> Shape:
    """Refuses a shape that is no way to zero. Raises: ValueError."""
    shape.weight(1.0)
    return shape


def _profile(value: Any) -> Any:
    """The fields of a profile with its shape's text read; anything else is left as it is."""
    return {**value, "shape": _shape(value.get("shape"))} if isinstance(value, dict) else value


def _plain(profile: Profile, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
    """The fields of a profile with its shape as text."""
    return {**handler(profile), "shape": str(profile.shape)}


ShapeField = Annotated[Shape, pydantic.BeforeValidator(_shape), pydantic.PlainSerializer(str, return_type=str)]
"""A shape, which is a text such as `rex(0.9)` in JSON."""
DecayField = Annotated[ShapeField, pydantic.AfterValidator(_leads_to_zero)]
"""A shape that may lead from an LR to zero."""
ProfileField = Annotated[Profile, pydantic.BeforeValidator(_profile), pydantic.WrapSerializer(_plain)]
"""A profile whose shape is a text in JSON."""
