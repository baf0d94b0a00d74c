"""The storage in SQL: one implementation for SQLite and PostgreSQL.

SQLite has one writer at a time, so what a transaction is to write is worked out before it begins.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from tuner_server.core.errors import ConflictError, InvalidInputError, NotFoundError, QuotaError, TunerError
from tuner_server.core.job.life import Life, LifeLimits, Signs
from tuner_server.core.job.state import JobState, Status, Transition
from tuner_server.core.messages import Directive
from tuner_server.storage import codec, job_queries, job_writes
from tuner_server.storage.base import (
    Backup,
    Change,
    Entry,
    Page,
    Storage,
    StoredAnswer,
    StoredJob,
    StoredVersion,
)
from tuner_server.storage.compaction import size
from tuner_server.storage.database import Database
from tuner_server.storage.deletion import delete_jobs
from tuner_server.storage.history_read import HistoryRead, entry_of
from tuner_server.storage.job_choice import ALL_JOBS, DeadJobs, JobFilter
from tuner_server.storage.last_backup import noted
from tuner_server.storage.tables import GONE, THERE, EntryRow, JobRow, ProjectRow
from tuner_server.storage.write_check import touch

_JOB = (
    JobRow.id,
    JobRow.project,
    JobRow.state,
    JobRow.version,
    JobRow.create_time,
    JobRow.update_time,
    JobRow.sign_time,
    JobRow.leave_time,
    JobRow.note,
)


class SqlStorage(Storage):
    """Jobs in a database that has the schema of this version (see `schema.open_storage`), which it closes."""

    def __init__(self, database: Database, limits: LifeLimits = LifeLimits()) -> None:  # noqa: B008  # it is a value
        self._database = database
        self.life_limits = limits

    def create(
        self,
        project: str,
        job_id: str,
        request_id: str,
        fingerprint: bytes,
        transition: Transition,
        now: datetime,
    ) -> StoredJob:
        """See `Storage`."""
        config = transition.state.config
        new = StoredJob(job_id, project, transition.state, 0, now.astimezone(UTC), now, Signs(now))
        job, changed = self._signed(new, transition.state, now)
        insert = sa.insert(JobRow).values(
            id=job_id,
            project=project,
            request_id=request_id,
            request_fingerprint=fingerprint,
            name=config.name,
            family=config.family,
            policy=config.policy,
            create_time=job.create_time,
            **changed,
        )
        try:
            with self._database.writing() as connection:
                job_queries.check_quota(connection, project, self.life_limits, now)
                connection.execute(insert)
                connection.execute(job_writes.WRITE_DIRECTIVE, job_writes.directive_values(job_id, transition))
        except (ConflictError, QuotaError) as lost:
            return self._created_before(project, request_id, fingerprint, lost)
        return job

    def _created_before(self, project: str, request_id: str, fingerprint: bytes, lost: TunerError) -> StoredJob:
        """The job that this request made when it came first. `lost` is why it could not make another."""
        query = sa.select(JobRow.id, JobRow.request_fingerprint)
        query = query.where(JobRow.project == project, JobRow.request_id == request_id)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise lost
            if row.request_fingerprint != fingerprint:
                raise ConflictError(f"request_id: {request_id!r} was used for a job with another config")
            return _load(connection, row.id)

    def load(self, job_id: str) -> StoredJob:
        """See `Storage`."""
        with self._database.reading() as connection:
            return _load(connection, job_id)

    def opened_by(self, job_id: str, request_id: str) -> bool:
        """See `Storage`."""
        query = sa.select(JobRow.id).where(JobRow.id == job_id, JobRow.request_id == request_id, THERE)
        with self._database.reading() as connection:
            return connection.execute(query).one_or_none() is not None

    def record(self, changes: Sequence[Change], now: datetime) -> list[StoredJob | None]:
        """See `Storage`."""
        # In one order everywhere: two servers that lock the same rows in turn would wait for each other.
        ordered = sorted(range(len(changes)), key=lambda i: changes[i].job.id)
        prepared = {i: _at_version(*self._signed(changes[i].job, changes[i].transition.state, now)) for i in ordered}
        taken = {i: job_writes.report_values(changes[i], prepared[i][0].update_time) for i in ordered}
        issued = {i: job_writes.directive_values(changes[i].job.id, changes[i].transition) for i in ordered}
        with self._database.writing() as connection:
            written = job_writes.present(connection, ordered, [prepared[i][1] for i in ordered])
            if written:
                connection.execute(job_writes.WRITE_STATE, [prepared[i][1] for i in written])
                connection.execute(job_writes.WRITE_REPORT, [taken[i] for i in written])
                connection.execute(job_writes.WRITE_DIRECTIVE, [issued[i] for i in written])
        return [prepared[i][0] if i in written else None for i in range(len(changes))]

    def update(self, job: StoredJob, state: JobState, now: datetime) -> StoredJob:
        """See `Storage`."""
        changed_job, values = _at_version(*_next(job, state, now))
        with self._database.writing() as connection:
            job_writes.write_state(connection, values)
        return changed_job

    def describe(self, job: StoredJob, name: str, note: str) -> StoredJob:
        """See `Storage`."""
        state = job.state.model_copy(update={"config": job.state.config.model_copy(update={"name": name})})
        described, changed = _next(job, state, job.update_time)
        described, values = _at_version(
            dataclasses.replace(described, note=note), {**changed, "name": name, "note": note}
        )
        with self._database.writing() as connection:
            job_writes.write_state(connection, values)
        return described

    def sign(self, signs: Mapping[tuple[str, str], datetime]) -> None:
        """See `Storage`."""
        # In one order everywhere, as in `record`.
        values = [self._sign(*job, at) for job, at in sorted(signs.items(), key=lambda item: item[0][1])]
        if not values:
            return
        with self._database.writing() as connection:
            connection.execute(job_writes.SIGN, values)

    def has_quota(self, project: str) -> bool:
        """See `Storage`."""
        query = sa.select(ProjectRow.name).where(ProjectRow.name == project, ProjectRow.max_alive_jobs.is_not(None))
        with self._database.reading() as connection:
            return connection.execute(query).one_or_none() is not None

    def revive(self, project: str, job_id: str, at: datetime) -> None:
        """See `Storage`."""
        with self._database.writing() as connection:
            job_queries.check_quota(connection, project, self.life_limits, at, besides=job_id)
            connection.execute(job_writes.SIGN, self._sign(project, job_id, at))

    def _sign(self, project: str, job_id: str, at: datetime) -> dict[str, Any]:
        """The values of `job_writes.SIGN`."""
        return {"of_project": project, "of_job": job_id, "at": at, "far": at + self.life_limits.silent_after}

    def leave(self, job: StoredJob, now: datetime) -> None:
        """See `Storage`."""
        values = {"of_job": job.id, "at_version": job.version, "sign_time": now, "leave_time": now}
        with self._database.writing() as connection:
            job_writes.write_state(connection, {**values, "version": job.version + 1})

    def rewind(self, job: StoredJob, state: JobState, now: datetime) -> StoredJob:
        """See `Storage`."""
        changed_job, values = _at_version(*self._signed(job, state, now))
        number = state.directive.number
        forget = sa.delete(EntryRow).where(EntryRow.job_id == job.id, EntryRow.number > number)
        reopen = (
            sa.update(EntryRow)
            .where(EntryRow.job_id == job.id, EntryRow.number == number)
            .values(dict.fromkeys(job_writes.REPORT_COLUMNS))
        )
        takes_place = (
            state.status.live and self.life_limits.vitals(job.state.status, job.signs, now).life is not Life.ALIVE
        )
        with self._database.writing() as connection:
            if takes_place:
                job_queries.check_quota(connection, job.project, self.life_limits, now, besides=job.id)
            job_writes.write_state(connection, values)
            connection.execute(forget)
            connection.execute(reopen)
        return changed_job

    def answer(self, job_id: str, number: int) -> StoredAnswer | None:
        """See `Storage`."""
        following = orm.aliased(EntryRow)
        query = (
            sa.select(EntryRow.fingerprint, following.directive)
            .join(
                following,
                sa.and_(following.job_id == EntryRow.job_id, following.number == EntryRow.number + 1),
            )
            .join(JobRow, JobRow.id == EntryRow.job_id)
            .where(EntryRow.job_id == job_id, EntryRow.number == number, THERE)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or row.fingerprint is None:
            return None
        return StoredAnswer(row.fingerprint, codec.from_json(Directive, row.directive))

    def history(
        self, job_id: str, *, losses: bool, measures: bool = True, after: int = 0, until: int | None = None
    ) -> Iterator[Entry]:
        """See `Storage`."""
        read = HistoryRead(job_id, losses=losses, measures=losses and measures, after=after)
        while not read.ended:
            with self._database.reading() as connection:
                rows = read.rows(connection)
            for row in rows:
                if row.number == until:
                    yield dataclasses.replace(entry_of(row), report=None)
                    return
                yield entry_of(row)

    def page(self, project: str, page_size: int, page_token: str = "", *, wanted: JobFilter = ALL_JOBS) -> Page:
        """See `Storage`."""
        if page_size < 1:
            raise InvalidInputError.of("page_size", f"must be at least 1 (got {page_size})")
        query = job_queries.newest(sa.select(*_JOB), project, wanted, self.life_limits)
        if page_token:
            query = job_queries.after(query, job_queries.position_of(page_token))
        with self._database.reading() as connection:
            page_size = job_queries.fitting(connection, query, page_size)
            jobs = tuple(_job(row) for row in connection.execute(query.limit(page_size + 1)))
        if len(jobs) <= page_size:
            return Page(jobs, "")
        last_job = jobs[page_size - 1]
        return Page(jobs[:page_size], job_queries.page_token((last_job.create_time, last_job.id)))

    def versions(self, project: str, limit: int, *, wanted: JobFilter = ALL_JOBS) -> list[StoredVersion]:
        """See `Storage`."""
        columns = sa.select(JobRow.id, JobRow.version, JobRow.sign_time, JobRow.leave_time)
        query = job_queries.newest(columns, project, wanted, self.life_limits).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [StoredVersion(row.id, row.version, Signs(row.sign_time, row.leave_time)) for row in rows]

    def load_all(self, job_ids: Collection[str]) -> list[StoredJob]:
        """See `Storage`."""
        query = sa.select(*_JOB).where(JobRow.id.in_(job_ids), THERE)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [_job(row) for row in rows]

    def delete(self, job: StoredJob) -> None:
        """See `Storage`."""
        chosen = sa.select(JobRow.id).where(JobRow.id == job.id, JobRow.version == job.version, THERE)
        if not delete_jobs(self._database, chosen, 1):
            raise ConflictError(f"job {job.id}: another request changed it; load it and try again")

    def prune(self, dead: DeadJobs, limit: int) -> dict[str, int]:
        """See `Storage`."""
        pruned: dict[str, int] = {}
        for word, kind in job_queries.kinds_of(dead, self.life_limits):
            chosen = sa.select(JobRow.id).where(kind).order_by(JobRow.update_time, JobRow.id)
            if n := delete_jobs(self._database, chosen, limit - sum(pruned.values())):
                pruned[word] = n
        return pruned

    def sweep(self, check: Callable[[], None]) -> int:
        """See `Storage`."""
        return delete_jobs(self._database, sa.select(JobRow.id).where(JobRow.status == GONE), sys.maxsize, check)

    def prunable(self, dead: DeadJobs) -> dict[str, int]:
        """See `Storage`."""
        with self._database.reading() as connection:
            kinds = job_queries.kinds_of(dead, self.life_limits)
            counts = {
                word: connection.execute(sa.select(sa.func.count()).where(kind)).scalar_one() for word, kind in kinds
            }
        return {word: count for word, count in counts.items() if count}

    def live_jobs(self, now: datetime) -> dict[tuple[Status, Life], int]:
        """See `Storage`."""
        with self._database.reading() as connection:
            rows = connection.execute(job_queries.living(self.life_limits, now))
            counts = {(Status(status), Life(life)): count for status, life, count in rows}
        live = [status for status in Status if status.live]
        return {(status, life): counts.get((status, life), 0) for status in live for life in Life}

    def ping(self) -> None:
        """See `Storage`."""
        self._database.raise_if_corrupt()
        with self._database.reading() as connection:
            # A table's row: `SELECT 1` does not look at the file.
            connection.execute(sa.select(JobRow.id).limit(1))

    def touch(self) -> None:
        """See `Storage`."""
        touch(self._database)

    def size(self) -> int:
        """See `Storage`."""
        return size(self._database)

    def last_backup(self) -> Backup | None:
        """See `Storage`."""
        return noted(self._database)

    def close(self) -> None:
        """See `Storage`."""
        self._database.close()

    def _signed(self, job: StoredJob, state: JobState, now: datetime) -> tuple[StoredJob, dict[str, Any]]:
        """A job in its next state, as `_next` gives it, after something that its client has sent."""
        signs = Signs(now if job.signs.leave_time else self.life_limits.kept_sign(job.signs, now).astimezone(UTC))
        changed_job, changed = _next(job, state, now)
        columns = {**changed, "sign_time": signs.sign_time, "leave_time": None}
        return dataclasses.replace(changed_job, signs=signs), columns


def _next(job: StoredJob, state: JobState, now: datetime) -> tuple[StoredJob, dict[str, Any]]:
    """A job in its next state as any reader will see it, and the columns that change with the state.

    The state is read back from what is to be written: a copy, and what can't be read is not written.
    """
    text = codec.to_json(state)
    changed_job = dataclasses.replace(
        job, state=codec.from_json(JobState, text), version=job.version + 1, update_time=now.astimezone(UTC)
    )
    changed = {
        "state": text,
        "status": state.status.value,
        "version": changed_job.version,
        "update_time": changed_job.update_time,
    }
    return changed_job, changed


def _at_version(changed_job: StoredJob, changed: dict[str, Any]) -> tuple[StoredJob, dict[str, Any]]:
    """A job in its next state, and the values of `job_writes.WRITE_STATE`."""
    return changed_job, {"of_job": changed_job.id, "at_version": changed_job.version - 1, **changed}


def _load(connection: sa.Connection, job_id: str) -> StoredJob:
    """The job as it is now. Raises: NotFoundError."""
    row = connection.execute(sa.select(*_JOB).where(JobRow.id == job_id, THERE)).one_or_none()
    if row is None:
        raise NotFoundError.of_job(job_id)
    return _job(row)


def _job(row: sa.Row[*tuple[Any, ...]]) -> StoredJob:
    state = codec.from_json(JobState, row.state)
    signs = Signs(row.sign_time, row.leave_time)
    return StoredJob(row.id, row.project, state, row.version, row.create_time, row.update_time, signs, row.note)
