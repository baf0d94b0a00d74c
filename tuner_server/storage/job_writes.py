"""What is written of jobs: the statements, each built once, and the values that they take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tuner_server.core.errors import ConflictError
from tuner_server.core.job.state import Transition
from tuner_server.storage import codec
from tuner_server.storage.base import Change
from tuner_server.storage.tables import Base, EntryRow, JobRow

_JOBS, _ENTRIES = Base.metadata.tables[JobRow.__tablename__], Base.metadata.tables[EntryRow.__tablename__]
REPORT_COLUMNS = [
    column.name for column in _ENTRIES.columns if column.nullable and column.name != EntryRow.decision.key
]
"""An entry's columns that are null until the report is there."""
# What every report executes is built once, on the tables themselves: building costs more than executing. The columns
# that are set are those of the values.
WRITE_STATE = sa.update(_JOBS).where(JobRow.id == sa.bindparam("of_job"), JobRow.version == sa.bindparam("at_version"))
"""Writes a job's next state, unless the job is no longer at its version."""
_LOCK_JOBS = (
    sa.select(JobRow.id, JobRow.version)
    .where(JobRow.id.in_(sa.bindparam("of_jobs", expanding=True)))
    .order_by(JobRow.id)
    .with_for_update()
)
"""Keeps others from changing jobs until the transaction ends, in one order everywhere. SQLite has one writer anyway."""
WRITE_REPORT = sa.update(_ENTRIES).where(
    EntryRow.job_id == sa.bindparam("of_job"), EntryRow.number == sa.bindparam("on_number")
)
"""Writes a report to its directive."""
WRITE_DIRECTIVE = sa.insert(_ENTRIES)
"""Writes a directive."""
SIGN = (
    sa.update(_JOBS)
    .where(
        JobRow.id == sa.bindparam("of_job"),
        JobRow.project == sa.bindparam("of_project"),
        # The second: a moment that a clock has written which has been set back since tells nothing.
        sa.or_(
            JobRow.leave_time.is_(None), JobRow.leave_time < sa.bindparam("at"), JobRow.leave_time > sa.bindparam("far")
        ),
    )
    .values(sign_time=sa.bindparam("at"), leave_time=None)
)
"""Writes a sign of a client, unless the client has left since."""


def present(connection: sa.Connection, changes: Sequence[int], values: Sequence[dict[str, Any]]) -> list[int]:
    """Those changes whose jobs are at the versions that are to be replaced, and stay so until the transaction ends.

    One statement for all jobs: in a group that a server writes, each further one costs as much as the group's commit.
    """
    rows = connection.execute(_LOCK_JOBS, {"of_jobs": sorted({one["of_job"] for one in values})})
    versions = {row.id: row.version for row in rows}
    return [i for i, one in zip(changes, values, strict=True) if versions.get(one["of_job"]) == one["at_version"]]


def write_state(connection: sa.Connection, values: dict[str, Any]) -> None:
    """Writes a job's next state. Raises: ConflictError: the job is no longer at the version that was to be replaced."""
    if connection.execute(WRITE_STATE, values).rowcount != 1:
        raise ConflictError(f"job {values['of_job']}: another request changed it; load it and try again")


def report_values(change: Change, report_time: datetime) -> dict[str, Any]:
    """The values of `WRITE_REPORT`."""
    report = change.report
    return {
        "of_job": change.job.id,
        "on_number": report.directive_number,
        "outcome": report.outcome.value,
        "n_steps": report.n_steps,
        "losses": codec.encode_losses(report.losses),
        "validations": codec.validations_to_json(report.validations),
        "wall_time_s": report.wall_time_s,
        "replacement": None if report.replacement is None else codec.to_json(report.replacement),
        "note": report.note or None,
        "measures": codec.encode_measures(report.measures) if report.measures else None,
        "change": None if report.change is None else codec.to_json(report.change),
        "ending": None if report.ending is None else codec.to_json(report.ending),
        "fingerprint": change.fingerprint,
        "report_time": report_time,
    }


def directive_values(job_id: str, transition: Transition) -> dict[str, Any]:
    """The row of a directive, and of the decision behind it."""
    decision = transition.decision
    return {
        "job_id": job_id,
        "number": transition.directive.number,
        "directive": codec.to_json(transition.directive),
        "decision": codec.to_json(decision) if decision is not None else None,
    }
