"""Whether a database takes writes, found out by one: only a write shows a full disk, a quota or a demoted primary."""

from __future__ import annotations

import sqlalchemy as sa

from tuner_server.storage.database import Database
from tuner_server.storage.tables import VERSION_TABLE

_TOUCH = sa.text(
    f"UPDATE {VERSION_TABLE} SET version_num = version_num"
    f" WHERE version_num IN (SELECT version_num FROM {VERSION_TABLE} FOR UPDATE SKIP LOCKED)"
)
"""Writes a row that stays what it is, unless another server does that just now."""
_NUMBERS = 2**31


def touch(database: Database) -> None:
    """Commits a write that changes nothing of what is kept. Raises: StorageError: the database does not take it."""
    if database.file is not None:
        database.file.in_place.check()
        database.file.in_place.check_room()
    with database.writing() as connection:
        if database.embedded:
            # A number that SQLite keeps for applications, and we use for nothing else: SQLite does not write a row that
            # stays what it is.
            count = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            connection.exec_driver_sql(f"PRAGMA user_version = {(count + 1) % _NUMBERS}")
        else:
            connection.execute(_TOUCH)
