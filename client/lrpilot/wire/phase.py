"""What steps are for."""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """What steps are for; see `Phase` of the wire contract."""

    WARM_UP = "warm_up"
    RANGE_TEST = "range_test"
    PROBE = "probe"
    TRAIN = "train"
