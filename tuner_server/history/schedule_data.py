"""A stored job's schedule, as the data of the file that clients save and load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lrpilot.wire import schedule_data, unsearched
from lrpilot.wire.measure_series import MeasureSeries
from lrpilot.wire.schedule_data import ScheduleData

from tuner_server.core.job import schedule
from tuner_server.core.job.state import JobState
from tuner_server.core.messages import Directive, Outcome, Phase, Validation
from tuner_server.history.changes import overlooked
from tuner_server.storage import Entry, StoredJob, StoredReport


def data_of_schedule(job: StoredJob, entries: Sequence[Entry]) -> ScheduleData:
    """What was committed, with its losses, and the probes; `entries` need their losses."""
    state = job.state
    segments = tuple(schedule.segments(entries))
    losses: list[float] = []
    validations: list[schedule_data.Validation] = []
    probes: list[schedule_data.Probe] = []
    replans: list[schedule_data.Replan] = []
    measures = MeasureSeries()
    for entry, kept in zip(entries, schedule.committed(entries), strict=True):
        directive, report = entry.directive, entry.report
        if (change := directive.change) is not None and not overlooked(entry):
            end, step = change.total_steps, len(losses)
            replans.append(schedule_data.Replan(step, change.kind, change.origin, end, change.reason))
        if kept and report is not None:
            validations += _validations(report.validations, len(losses))
            losses += report.losses or ()
            measures.add(report.n_steps, report.measures.items())
        elif directive.phase.searches and (report is None or report.outcome is not Outcome.REPLACED):
            probes.append(_probe(directive, report, len(losses)))
        # What is left was committed once, and rolled back.
    return ScheduleData(
        job_id=job.id,
        name=state.config.name,
        policy=state.config.policy,
        base_lrs=(state.config.base_lr,),
        total_steps=state.total_steps,
        segments=segments,
        losses=tuple(losses),
        validations=tuple(validations),
        probes=tuple(probes),
        unsearched=unsearched.was_unsearched(state, segments, begins_unsearched=_begins_unsearched(state)),
        unrepeatable=state.unrepeatable,
        ending=None if state.ending is None else schedule_data.Ending(**dict(state.ending)),
        replans=tuple(replans),
        measures=measures.measured(),
    )


def _begins_unsearched(state: JobState) -> bool:
    directive = state.directive
    return unsearched.begins_unsearched(
        directive.number,
        directive.n_steps,
        directive.stage,
        state.config.total_steps,
        trains=directive.phase is Phase.TRAIN,
    )


def _probe(directive: Directive, report: StoredReport | None, start_step: int) -> schedule_data.Probe:
    """A probe; one that is outstanding has no steps yet."""
    assert directive.profile is not None
    return schedule_data.Probe(
        start_step=start_step,
        n_steps=0 if report is None else report.n_steps,
        profile=directive.profile,
        phase=directive.phase,
        stage=directive.stage,
        losses=() if report is None else report.losses or (),
        validations=() if report is None else tuple(_validations(report.validations)),
        diverged=report is not None and report.outcome is Outcome.DIVERGED,
    )


def _validations(validations: Iterable[Validation], start_step: int = 0) -> Iterable[schedule_data.Validation]:
    return (schedule_data.Validation(start_step + v.step, v.loss) for v in validations)
