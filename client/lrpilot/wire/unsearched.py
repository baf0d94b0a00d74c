"""Runs that are too short for a search are told first to train to their end."""

from __future__ import annotations

from lrpilot.v1 import tuner_pb2 as pb


def begins_unsearched(directive: pb.Directive, config: pb.JobConfig) -> bool:
    """Whether a directive is the first one of such a run. A client without a server tells itself stage -1."""
    to_the_end = config.HasField("total_steps") and directive.n_steps == config.total_steps
    return directive.number == 1 and directive.phase == pb.PHASE_TRAIN and directive.stage >= 0 and to_the_end


def was_unsearched(response: pb.GetScheduleResponse) -> bool:
    """Whether a job is such a run, as its schedule says, with its history or without."""
    job = response.job
    if job.search_steps > job.given_back_steps:
        return False
    if not response.segments:
        return begins_unsearched(job.directive, job.config)
    first = response.segments[0]
    return first.phase == pb.PHASE_TRAIN and first.stage >= 0
