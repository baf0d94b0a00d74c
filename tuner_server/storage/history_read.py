"""A job's history, read from its table part by part: what is in memory at a time does not depend on its length."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tuner_server.core.errors import ConflictError, NotFoundError
from tuner_server.core.messages import Decision, Directive, Ending, Outcome, PlanChange, Replacement
from tuner_server.storage import codec
from tuner_server.storage.base import Entry, StoredReport
from tuner_server.storage.tables import THERE, EntryRow, JobRow

ROWS_AT_ONCE = 512
"""The most entries of a part."""
BYTES_AT_ONCE = 4 * 2**20
"""The bytes of a part as they are stored. A larger entry is a part by itself: a report has at most 8 MiB."""
_LEAN = (
    EntryRow.number,
    EntryRow.fingerprint,
    EntryRow.directive,
    EntryRow.decision,
    EntryRow.outcome,
    EntryRow.n_steps,
    EntryRow.validations,
    EntryRow.wall_time_s,
    EntryRow.report_time,
    EntryRow.replacement,
    EntryRow.note,
    EntryRow.change,
    EntryRow.ending,
)
"""The columns that are always read."""
_Row = sa.Row[*tuple[Any, ...]]


_Mark = tuple[int, bytes | None, datetime | None]
"""The last entry of a part, by which the next one knows that it follows on it: number, fingerprint, time of report."""


class HistoryRead:
    """One reading of a history, to the outstanding entry."""

    def __init__(self, job_id: str, *, losses: bool, measures: bool, after: int = 0) -> None:
        """Reads what follows on entry `after` of `job_id`; with losses of all steps, and their measures, if wanted."""
        self._job_id, self._after = job_id, after
        long = [*([EntryRow.losses] if losses else []), *([EntryRow.measures] if measures else [])]
        missing = {"losses", "measures"} - {column.key for column in long}
        self._columns = [*_LEAN, *long, *(sa.null().label(name) for name in sorted(missing))]
        counted = [EntryRow.directive, EntryRow.decision, EntryRow.validations, *long]
        size = sum((sa.func.coalesce(sa.func.length(column), 0) for column in counted), start=sa.literal(0))
        self._sizes = sa.select(EntryRow.number, size.label("size"))
        self._mark: _Mark | None = None
        self.ended = False
        """Whether all has been read."""

    def rows(self, connection: sa.Connection) -> Sequence[_Row]:
        """The next part. Raises: NotFoundError: there is none; ConflictError: it doesn't follow on the one before."""
        after = self._after if self._mark is None else self._mark[0]
        if self._mark is not None and connection.execute(self._again).one_or_none() != self._mark:
            raise self._changed()
        there = sa.exists().where(JobRow.id == self._job_id, THERE)
        query = sa.select(*self._columns).where(EntryRow.job_id == self._job_id, EntryRow.number > after, there)
        found = connection.execute(
            query.where(EntryRow.number <= self._last(connection, after)).order_by(EntryRow.number)
        ).all()
        if not found:
            raise NotFoundError.of_job(self._job_id) if not after else self._changed()
        self._mark = found[-1].number, found[-1].fingerprint, found[-1].report_time
        # The outstanding directive is the last one, and the only one without a report.
        self.ended = found[-1].outcome is None
        return found

    @property
    def _again(self) -> sa.Select[int, bytes | None, datetime | None]:
        """The last entry once more: if the job has gone back behind it, it is gone, or has another report."""
        assert self._mark is not None
        query = sa.select(EntryRow.number, EntryRow.fingerprint, EntryRow.report_time)
        return query.where(EntryRow.job_id == self._job_id, EntryRow.number == self._mark[0])

    def _changed(self) -> ConflictError:
        return ConflictError(f"job {self._job_id}: it went back, or was deleted, while its history was read; ask again")

    def _last(self, connection: sa.Connection, after: int) -> int:
        """The number of the last entry of the part that follows on entry `after`."""
        query = self._sizes.where(EntryRow.job_id == self._job_id, EntryRow.number > after)
        last, total = after, 0
        for number, size in connection.execute(query.order_by(EntryRow.number).limit(ROWS_AT_ONCE)):
            total += size
            if total > BYTES_AT_ONCE and last > after:
                break
            last = number
        return last


def entry_of(row: _Row) -> Entry:
    """The entry of a row. Raises: StorageError: it can't be read."""
    report = None
    if row.outcome is not None:
        report = StoredReport(
            outcome=Outcome(row.outcome),
            n_steps=row.n_steps,
            validations=codec.validations_from_json(row.validations),
            wall_time_s=row.wall_time_s,
            report_time=row.report_time,
            losses=None if row.losses is None else codec.decode_losses(row.losses),
            replacement=None if row.replacement is None else codec.from_json(Replacement, row.replacement),
            note=row.note or "",
            measures={} if row.measures is None else codec.decode_measures(row.measures),
            change=None if row.change is None else codec.from_json(PlanChange, row.change),
            ending=None if row.ending is None else codec.from_json(Ending, row.ending),
        )
    return Entry(
        directive=codec.from_json(Directive, row.directive),
        decision=None if row.decision is None else codec.from_json(Decision, row.decision),
        report=report,
    )
