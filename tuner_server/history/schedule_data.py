"""A stored job's schedule, as the data of the file that clients save and load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lrpilot.wire import schedule_data
from lrpilot.wire.phase import Phase as SteppingPhase
from lrpilot.wire.schedule_data import ScheduleData

from tuner_server.core.job import schedule
from tuner_server.core.job.schedule import Segment
from tuner_server.core.messages import Directive, Outcome, Phase, Validation
from tuner_server.storage import Entry, StoredJob, StoredReport

_SEARCHING = (Phase.RANGE_TEST, Phase.PROBE)


def data_of_schedule(job: StoredJob, entries: Sequence[Entry]) -> ScheduleData:
    """What was committed, with its losses, and the probes; `entries` need their losses."""
    state = job.state
    segments = schedule.segments(entries)
    losses: list[float] = []
    validations: list[schedule_data.Validation] = []
    probes: list[schedule_data.Probe] = []
    for entry, kept in zip(entries, schedule.committed(entries), strict=True):
        directive, report = entry.directive, entry.report
        if kept and report is not None:
            validations += _validations(report.validations, len(losses))
            losses += report.losses or ()
        elif directive.phase in _SEARCHING and (report is None or report.outcome is not Outcome.REPLACED):
            probes.append(_probe(directive, report, len(losses)))
        # What is left was committed once, and rolled back.
    return ScheduleData(
        job_id=job.id,
        name=state.config.name,
        policy=state.config.policy,
        base_lrs=(state.config.base_lr,),
        total_steps=state.config.total_steps,
        segments=tuple(map(_segment, segments)),
        losses=tuple(losses),
        validations=tuple(validations),
        probes=tuple(probes),
        unsearched=_was_unsearched(job, segments),
        unrepeatable=state.unrepeatable,
    )


def _was_unsearched(job: StoredJob, segments: Sequence[Segment]) -> bool:
    """Whether the run was too short for a search. A client that was alone at its beginning is in stage -1."""
    directive, config = job.state.directive, job.state.config
    if job.state.probe_steps > 0:
        return False
    if segments:
        return segments[0].phase is Phase.TRAIN and segments[0].stage >= 0
    to_the_end = directive.number == 1 and directive.n_steps == config.total_steps
    return to_the_end and directive.phase is Phase.TRAIN and directive.stage >= 0


def _segment(segment: Segment) -> schedule_data.Segment:
    phase = SteppingPhase(segment.phase.value)
    return schedule_data.Segment(segment.start_step, segment.n_steps, segment.profile, phase, segment.stage)


def _probe(directive: Directive, report: StoredReport | None, start_step: int) -> schedule_data.Probe:
    """A probe; one that is outstanding has no steps yet."""
    assert directive.profile is not None
    return schedule_data.Probe(
        start_step=start_step,
        n_steps=0 if report is None else report.n_steps,
        profile=directive.profile,
        phase=SteppingPhase(directive.phase.value),
        stage=directive.stage,
        losses=() if report is None else report.losses or (),
        validations=() if report is None else tuple(_validations(report.validations)),
        diverged=report is not None and report.outcome is Outcome.DIVERGED,
    )


def _validations(validations: Iterable[Validation], start_step: int = 0) -> Iterable[schedule_data.Validation]:
    return (schedule_data.Validation(start_step + v.step, v.loss) for v in validations)
