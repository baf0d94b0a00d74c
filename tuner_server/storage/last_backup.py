"""When a database was backed up last, which it says itself: backups are made beside its servers, and lie anywhere."""

from __future__ import annotations

import sqlalchemy as sa

from tuner_server.storage.base import Backup
from tuner_server.storage.database import Database
from tuner_server.storage.tables import LastBackupRow


def note(database: Database, made: Backup) -> None:
    """Notes a backup as the last one. Raises: StorageError: the database does not take it."""
    with database.writing() as connection:
        connection.execute(sa.delete(LastBackupRow))
        connection.execute(sa.insert(LastBackupRow).values(time=made.time, size=made.size))


def noted(database: Database) -> Backup | None:
    """The last backup; None: there was none. Raises: StorageError."""
    with database.reading() as connection:
        row = connection.execute(sa.select(LastBackupRow.time, LastBackupRow.size)).one_or_none()
    return None if row is None else Backup(row.time, row.size)
