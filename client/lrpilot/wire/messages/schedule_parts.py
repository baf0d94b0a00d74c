"""A schedule that comes in several messages."""

from __future__ import annotations

from collections.abc import Iterable

from lrpilot.v1 import tuner_pb2


def merged(messages: Iterable[tuner_pb2.StreamScheduleResponse]) -> tuner_pb2.GetScheduleResponse:
    """The messages in which a server sends a schedule, as one."""
    whole = tuner_pb2.GetScheduleResponse()
    for message in messages:
        if message.HasField("job"):
            whole.job.CopyFrom(message.job)
        whole.segments.extend(message.segments)
        whole.history.extend(message.history)
    return whole
