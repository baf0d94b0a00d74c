"""What steps are for, and where the server's words for it are."""

from __future__ import annotations

import enum

from lrpilot.v1 import tuner_pb2 as pb


class Phase(enum.StrEnum):
    """What steps are for; see `Phase` of the wire contract."""

    WARM_UP = "warm_up"
    RANGE_TEST = "range_test"
    PROBE = "probe"
    TRAIN = "train"


_PHASES = {
    pb.PHASE_WARM_UP: Phase.WARM_UP,
    pb.PHASE_RANGE_TEST: Phase.RANGE_TEST,
    pb.PHASE_PROBE: Phase.PROBE,
    pb.PHASE_TRAIN: Phase.TRAIN,
}


def phase_from_proto(number: pb.Phase.ValueType) -> Phase:
    """A phase that has steps. Raises: ValueError: it has none, or this client doesn't know it."""
    phase = _PHASES.get(number)
    if phase is None:
        raise ValueError(f"phase {number} has no steps, or is not known to this client")
    return phase
