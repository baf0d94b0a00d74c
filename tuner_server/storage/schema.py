"""The version of a database's schema: look, upgrade, refuse. A fresh database is made by running all migrations."""

from __future__ import annotations

import dataclasses
import functools

import alembic.command
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tuner_server.core.errors import SchemaVersionError, StorageError
from tuner_server.core.job.life import LifeLimits
from tuner_server.storage.base import Storage
from tuner_server.storage.database import POOL_SIZE, Database
from tuner_server.storage.sql import SqlStorage
from tuner_server.storage.tables import VERSION_TABLE

_UPGRADE_LOCK = 0x6C727069
"""Any number that is ours, for PostgreSQL's advisory locks ("lrpi")."""


@dataclasses.dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade did; `before` is None for a fresh database."""

    before: str | None
    after: str


def open_storage(
    url: str,
    *,
    upgrade: bool = False,
    pool_size: int = POOL_SIZE,
    limits: LifeLimits = LifeLimits(),  # noqa: B008  # it is a value
) -> Storage:
    """Opens a database with the schema of this version.

    An embedded database is made, or upgraded, if need be. A shared one is upgraded only when that is asked for: other
    servers may still run the old version.

    Args:
        url: see `Database`.
        upgrade: whether a shared database may be upgraded.
        pool_size: how many connections there are at most.
        limits: how long a sign of a client counts.

    Raises:
        InvalidInputError: not a URL of a database that can be used.
        CorruptionError: the file of an embedded database is corrupt.
        SchemaVersionError: the database was written by a newer version; it was left alone.
        StorageError: the database can't be used, or has to be upgraded first.
    """
    database = Database(url, pool_size=pool_size)
    try:
        database.check()
        if database.embedded or upgrade:
            upgrade_schema(database)
        else:
            _require_head(database)
        database.schema = head_version()
        if database.file is not None:
            database.file.renew_mark()
    except BaseException:
        database.close()
        raise
    return SqlStorage(database, limits)


def upgrade_schema(database: Database) -> Upgrade:
    """Brings a database to the schema of this version, in one transaction.

    Raises:
        SchemaVersionError: it was written by a newer version.
        StorageError: it can't be used.
    """
    head = head_version()
    if current_version(database) == head:
        return Upgrade(head, head)
    with database.migrating() as connection:
        # Servers that start together: the first does it, the others wait and find it done. (A writer on SQLite has
        # locked the database already.)
        if not database.embedded:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
        before = _version(connection, database.label)
        if before != head:
            alembic.command.upgrade(migration_config(connection), "head")
    return Upgrade(before, head)


def current_version(database: Database) -> str | None:
    """The version of a database; None: it has no schema yet.

    Raises:
        SchemaVersionError: one that is not known here.
        StorageError: it can't be used.
    """
    with database.reading() as connection:
        return _version(connection, database.label)


def head_version() -> str:
    """The version that this code needs."""
    return _versions()[0]


def migration_config(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration, in place of an alembic.ini. `connection` is what `migrations/env.py` works on."""
    config = Config()
    config.set_main_option("script_location", "tuner_server.storage:migrations")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    return config


def _require_head(database: Database) -> None:
    found, head = current_version(database), head_version()
    if found != head:
        state = f"has schema version {found}" if found else "has no schema yet"
        raise StorageError(f"{database.label} {state}, version {head} is needed: run `lrpilot db upgrade`")


def _version(connection: sa.Connection, label: str) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_revision()
    if found is not None:
        require_known(found, label)
    return found


def require_known(version: str, label: str) -> None:
    """Raises: SchemaVersionError: a version that was not known when this code was written."""
    if version not in _versions():
        raise SchemaVersionError(
            f"{label} has schema version {version}, this version of LRPilot knows {head_version()} at most: "
            "it was written by a newer version; upgrade LRPilot"
        )


@functools.cache
def _versions() -> tuple[str, ...]:
    """All versions that this code knows, the newest first. To read the migrations takes a tenth of a second."""
    return tuple(found.revision for found in ScriptDirectory.from_config(migration_config()).walk_revisions())
