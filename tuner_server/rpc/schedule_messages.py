"""A job's schedule and its history -> the wire's messages."""

from __future__ import annotations

from collections.abc import Iterator

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.profiles import profile_to_proto

from tuner_server.core.job.life import UNTOLD, Vitals
from tuner_server.core.job.schedule import Segment
from tuner_server.rpc.convert import PHASES, directive_to_pb, job_to_pb, report_to_pb
from tuner_server.rpc.decision_messages import decision_to_pb
from tuner_server.storage import Entry, History, StoredJob

MESSAGE_BYTES = 8 * 2**20
"""The size from which on a message of a schedule is followed by another one: that of the largest entry."""


def segment_to_pb(segment: Segment) -> pb.Segment:
    """A segment."""
    return pb.Segment(
        start_step=segment.start_step,
        n_steps=segment.n_steps,
        profile=profile_to_proto(segment.profile),
        phase=PHASES[segment.phase],
        stage=segment.stage,
    )


def entry_to_pb(entry: Entry, committed: bool) -> pb.HistoryEntry:
    """An entry of a job's history."""
    decision = entry.decision
    return pb.HistoryEntry(
        directive=directive_to_pb(entry.directive),
        report=report_to_pb(entry.directive.number, entry.report) if entry.report else None,
        committed=committed,
        decision=decision_to_pb(entry.directive.number, decision) if decision else None,
    )


def schedule_to_pb(
    stored: StoredJob, history: History, *, full: bool, vitals: Vitals = UNTOLD
) -> Iterator[pb.StreamScheduleResponse]:
    """A job's schedule in as many messages as it takes, the first with the job; with its history if it is wanted."""
    outline = history.outline
    response = pb.StreamScheduleResponse(job=job_to_pb(stored, vitals))
    size = response.ByteSize()
    for segment in outline.segments:
        message = segment_to_pb(segment)
        size += message.ByteSize()
        response.segments.append(message)
        if size >= MESSAGE_BYTES:
            yield response
            response, size = pb.StreamScheduleResponse(), 0
    if full:
        for entry, kept in zip(history.read(losses=True, measures=True), outline.kept, strict=True):
            told = entry_to_pb(entry, kept)
            size += told.ByteSize()
            response.history.append(told)
            if size >= MESSAGE_BYTES:
                yield response
                response, size = pb.StreamScheduleResponse(), 0
    yield response
