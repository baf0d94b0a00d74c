"""Deletes jobs in transactions that are short, however long the jobs were.

SQLite has one writer at a time, and PostgreSQL ends what takes too long. Whoever waits for SQLite's lock looks for it
now and then, and would hardly find it between transactions that follow at once: half of the time is left to others. A
history that is larger than one transaction may delete goes from its end: what is left in between is a shorter history,
and the job itself goes with its last part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import sqlalchemy as sa

from tuner_server.storage.database import Database
from tuner_server.storage.tables import EntryRow, JobRow

ENTRIES_AT_ONCE = 1000
"""Directives whose rows one transaction deletes at most: some 50 ms on SQLite."""
BYTES_AT_ONCE = 32 * 2**20
"""Bytes of losses and measures that one transaction deletes, unless one report alone has more."""


def delete_jobs(database: Database, chosen: sa.Select[str], limit: int) -> int:
    """Deletes jobs with their histories.

    Args:
        database: that of the jobs.
        chosen: the ids of all that are to go, in order; asked again in every transaction.
        limit: how many at most.

    Returns:
        How many were deleted.

    Raises:
        StorageError: the database can't be used. What was deleted until then is.
    """
    n_deleted = 0
    while n_deleted < limit:
        began = time.monotonic()
        with database.writing() as connection:
            ids = connection.execute(chosen.limit(limit - n_deleted).with_for_update(skip_locked=True)).scalars().all()
            if not ids:
                break
            n_deleted += _delete_some(connection, ids)
        if database.embedded:
            time.sleep(time.monotonic() - began)
    return n_deleted


def _delete_some(connection: sa.Connection, ids: Sequence[str]) -> int:
    """Deletes the first of these jobs, as many as one transaction can; or the last entries of the first. How many."""
    sizes = _sizes(connection, ids)
    whole: list[str] = []
    n_entries = n_bytes = 0
    for job_id in ids:
        entries, size = sizes.get(job_id, (0, 0))
        n_entries, n_bytes = n_entries + entries, n_bytes + size
        if n_entries > ENTRIES_AT_ONCE or n_bytes > BYTES_AT_ONCE:
            break
        whole.append(job_id)
    if not whole:
        entries, size = sizes[ids[0]]
        share = min(ENTRIES_AT_ONCE, entries * BYTES_AT_ONCE // max(size, 1))
        last = sa.select(sa.func.max(EntryRow.number)).where(EntryRow.job_id == ids[0]).scalar_subquery()
        if entries > max(share, 1):
            end = EntryRow.number > last - max(share, 1)
            connection.execute(sa.delete(EntryRow).where(EntryRow.job_id == ids[0], end))
            return 0
        whole = [ids[0]]
    connection.execute(sa.delete(EntryRow).where(EntryRow.job_id.in_(whole)))
    connection.execute(sa.delete(JobRow).where(JobRow.id.in_(whole)))
    return len(whole)


def _sizes(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many entries each job has, and about how many bytes."""
    lengths = [sa.func.coalesce(sa.func.length(column), 0) for column in (EntryRow.losses, EntryRow.measures)]
    query = sa.select(EntryRow.job_id, sa.func.count(), sa.func.sum(lengths[0] + lengths[1]))
    rows = connection.execute(query.where(EntryRow.job_id.in_(ids)).group_by(EntryRow.job_id))
    return {job_id: (count, int(size)) for job_id, count, size in rows}
