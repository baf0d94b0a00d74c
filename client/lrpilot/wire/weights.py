"""Which weights a run can end with. Pure."""

from __future__ import annotations

import enum


class Weights(enum.StrEnum):
    """The weights that a model is left with; see `Weights` of the wire contract."""

    LAST = "last"
    """Those after the last step."""
    AVERAGE = "average"
    """An average over the last steps."""
