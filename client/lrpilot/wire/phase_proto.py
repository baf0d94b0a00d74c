"""The phase of steps, from its number in a message."""

from __future__ import annotations

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.phase import Phase

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
