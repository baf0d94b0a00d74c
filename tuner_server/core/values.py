"""What the values of the core are made of: their base, and numbers and texts that are checked."""

from __future__ import annotations

from typing import Annotated

import pydantic
from lrpilot.wire.limits import MAX_STEPS

# Losses may be NaN or infinite (a probe that diverged): JSON has no such numbers, so they are written as strings.
_CONFIG = pydantic.ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Value(pydantic.BaseModel):
    """The base of all values of the core: frozen, strict about its fields, JSON without loss."""

    model_config = _CONFIG


Steps = Annotated[int, pydantic.Field(ge=0, le=MAX_STEPS)]
Text = Annotated[str, pydantic.Field(pattern=r"^[^\x00]*$")]
"""PostgreSQL keeps no NUL character in a text."""
Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Lr = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
"""An LR at which something moves, or a factor of one."""
