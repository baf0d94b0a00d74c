"""What steps are for. Pure."""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """What the steps of a directive are for; see `Phase` of the wire contract."""

    WARM_UP = "warm_up"
    RANGE_TEST = "range_test"
    PROBE = "probe"
    TRAIN = "train"
    STOP = "stop"
    """There are no more steps."""

    @property
    def committed(self) -> bool:
        """Whether the steps stay in the model."""
        return self in (Phase.WARM_UP, Phase.TRAIN)

    @property
    def searches(self) -> bool:
        """Whether the steps are a search, which is rolled back."""
        return self in (Phase.RANGE_TEST, Phase.PROBE)
