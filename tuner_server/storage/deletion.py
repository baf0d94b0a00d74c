"""Deletes jobs in transactions that are short, however long the jobs were.

SQLite has one writer at a time, and PostgreSQL ends what takes too long. Whoever waits for SQLite's lock looks for it
now and then, and would hardly find it between transactions that follow at once: half of the time is left to others.

A job goes in one transaction, for everybody. Where its history is larger than one transaction may delete, that one
makes it `GONE`, under the locks and conditions of any deletion, and the entries follow from their end, the row with
the last of them. An interruption leaves a row that nobody sees, and that the next pruning takes, or a server
when it looks for such rows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa

from tuner_server.storage.database import Database
from tuner_server.storage.tables import GONE, EntryRow, JobRow

ENTRIES_AT_ONCE = 1000
"""Directives whose rows one transaction deletes at most: some 50 ms on SQLite."""
BYTES_AT_ONCE = 32 * 2**20
"""Bytes of losses and measures that one transaction deletes, unless one report alone has more."""


def delete_jobs(
    database: Database, chosen: sa.Select[str], limit: int, check: Callable[[], None] = lambda: None
) -> int:
    """Deletes jobs with their histories.

    Args:
        database: that of the jobs.
        chosen: the ids of all that are to go, in order; asked again in every transaction that takes some of them.
        limit: how many at most.
        check: raises where no more is to be deleted; called before every transaction.

    Returns:
        How many were deleted.

    Raises:
        StorageError: the database can't be used. What was deleted until then is.
        And what `check` raises.
    """
    n_deleted = 0
    while n_deleted < limit:
        check()
        with _turn(database) as connection:
            n_most = min(limit - n_deleted, ENTRIES_AT_ONCE)  # each has an entry at least
            ids = connection.execute(chosen.limit(n_most).with_for_update(skip_locked=True)).scalars().all()
            if not ids:
                break
            n_whole = _delete_whole(connection, ids)
            if not n_whole:
                _make_gone(connection, ids[0])
        if not n_whole:
            _delete_in_parts(database, ids[0], check)
        n_deleted += n_whole or 1
    return n_deleted


@contextlib.contextmanager
def _turn(database: Database) -> Iterator[sa.Connection]:
    """A transaction, and on SQLite as long a pause."""
    began = time.monotonic()
    with database.writing() as connection:
        yield connection
    if database.embedded:
        time.sleep(time.monotonic() - began)


def _delete_whole(connection: sa.Connection, ids: Sequence[str]) -> int:
    """Deletes the first of these jobs, as many as one transaction can. How many; 0: the first one is too large."""
    sizes = _sizes(connection, ids)
    whole: list[str] = []
    n_entries = n_bytes = 0
    for job_id in ids:
        entries, size = sizes.get(job_id, (0, 0))
        n_entries, n_bytes = n_entries + entries, n_bytes + size
        if n_entries > 1 and (n_entries > ENTRIES_AT_ONCE or n_bytes > BYTES_AT_ONCE):
            break
        whole.append(job_id)
    if whole:
        connection.execute(sa.delete(EntryRow).where(EntryRow.job_id.in_(whole)))
        connection.execute(sa.delete(JobRow).where(JobRow.id.in_(whole)))
    return len(whole)


def _make_gone(connection: sa.Connection, job_id: str) -> None:
    """Deletes a job for everybody, but for its rows.

    Whoever has loaded it writes nothing more, as its version is another one. Its request may open a job anew: the line
    break is nothing that a request id could have.
    """
    gone = {"status": GONE, "version": JobRow.version + 1, "request_id": f"\n{job_id}"}
    connection.execute(sa.update(JobRow).where(JobRow.id == job_id).values(gone))


def _delete_in_parts(database: Database, job_id: str, check: Callable[[], None]) -> None:
    """Deletes the rows of a job that is gone; another process may be at it too."""
    locked = sa.select(JobRow.id).where(JobRow.id == job_id, JobRow.status == GONE).with_for_update()
    while True:
        check()
        with _turn(database) as connection:
            if connection.execute(locked).one_or_none() is None or _delete_whole(connection, [job_id]):
                return
            _delete_end(connection, job_id)


def _delete_end(connection: sa.Connection, job_id: str) -> None:
    """Deletes the last entries of a job that has more than one transaction can delete."""
    entries, size = _sizes(connection, [job_id])[job_id]
    share = max(min(ENTRIES_AT_ONCE, entries * BYTES_AT_ONCE // max(size, 1)), 1)
    last = sa.select(sa.func.max(EntryRow.number)).where(EntryRow.job_id == job_id).scalar_subquery()
    connection.execute(sa.delete(EntryRow).where(EntryRow.job_id == job_id, EntryRow.number > last - share))


def _sizes(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many entries each job has, and about how many bytes."""
    lengths = [sa.func.coalesce(sa.func.length(column), 0) for column in (EntryRow.losses, EntryRow.measures)]
    query = sa.select(EntryRow.job_id, sa.func.count(), sa.func.sum(lengths[0] + lengths[1]))
    rows = connection.execute(query.where(EntryRow.job_id.in_(ids)).group_by(EntryRow.job_id))
    return {job_id: (count, int(size)) for job_id, count, size in rows}
