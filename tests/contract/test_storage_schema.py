"""The schema, on every backend."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tests.support.repository import old_databases
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import SchemaVersionError, StorageError
from tuner_server.core.job import machine
from tuner_server.storage import Database, Storage, Upgrade, current_version, open_storage, upgrade_schema
from tuner_server.storage.schema import head_version, migration_config
from tuner_server.storage.tables import VERSION_TABLE, Base

PROJECT = "default"
"""That of jobs from before there were projects."""


def test_the_migrations_lead_to_the_tables(database_url: str) -> None:
    with Database(database_url) as database:
        assert upgrade_schema(database) == Upgrade(None, head_version())
        with database.reading() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
            )
            assert compare_metadata(context, Base.metadata) == []


def test_a_shared_database_is_upgraded_only_when_asked(postgresql_url: str) -> None:
    with pytest.raises(StorageError, match="lrpilot db upgrade"):
        open_storage(postgresql_url)
    open_storage(postgresql_url, upgrade=True).close()
    with open_storage(postgresql_url) as storage:
        assert storage.page("default", 1).jobs == ()


def test_a_server_writes_nothing_into_a_schema_that_was_upgraded_under_it(database_url: str) -> None:
    with open_storage(database_url, upgrade=True) as storage, Database(database_url) as database:
        opened = machine.create(JobConfig(policy="budget", total_steps=1000, base_lr=0.1))

        def create() -> None:
            storage.create(PROJECT, "job", "request", b"", opened, datetime.now(UTC))

        storage.touch()

        def move_to(version: str) -> None:
            with database.writing() as connection:
                connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")

        move_to("9999")
        for write in (storage.touch, create):
            with pytest.raises(SchemaVersionError, match=r"schema version 9999 by now.*start it anew") as refused:
                write()
            assert "its schema was upgraded, and this server was not" in refused.value.told
        assert storage.page(PROJECT, 10).jobs == ()
        move_to(head_version())
        create()
        assert len(storage.page(PROJECT, 10).jobs) == 1


def test_every_released_version_has_a_file() -> None:
    """A new migration needs one of the version before it: tests/data/schemas/README.md says how it is made."""
    released = {f"{number:04}" for number in range(1, int(head_version()))}
    assert released <= set(old_databases.FILES)


@pytest.mark.parametrize("version", old_databases.FILES)
def test_a_file_of_every_released_version_is_upgraded_in_place(version: str, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    shutil.copy(old_databases.FILES[version], old)
    url = f"sqlite:///{old}"
    with Database(url) as database:
        assert current_version(database) == version
    with open_storage(url) as storage:
        check_jobs(storage, old_databases.FILES[version])
    with Database(url) as database, database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize("version", old_databases.FILES)
def test_rows_of_every_released_version_are_upgraded_on_postgresql(version: str, postgresql_url: str) -> None:
    file = old_databases.FILES[version]
    with Database(postgresql_url) as database:
        with database.migrating() as connection:
            alembic.command.upgrade(migration_config(connection), version)
        with database.writing() as connection:
            for name in ("jobs", "entries"):
                copy_rows(file, name, connection)
    with open_storage(postgresql_url, upgrade=True) as storage:
        check_jobs(storage, file)


def copy_rows(file: Path, name: str, target: sa.Connection) -> None:
    """A table's rows from a SQLite file into a database with the same schema version."""
    table = sa.Table(name, sa.MetaData(), autoload_with=target)
    source = sa.create_engine(f"sqlite:///{file}")
    try:
        with source.connect() as connection:
            # SQLite has no time zones; what it has is UTC.
            rows = connection.execute(sa.select(sa.Table(name, sa.MetaData(), autoload_with=source))).mappings()
            target.execute(sa.insert(table), [dict(row) for row in rows])
    finally:
        source.dispose()


def check_jobs(storage: Storage, file: Path) -> None:
    """All that was in the old file is in the storage, and can be read."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as old:
        statuses = dict(old.execute("SELECT id, status FROM jobs"))
        n_entries = dict(old.execute("SELECT job_id, count(*) FROM entries GROUP BY job_id"))
        n_losses = dict(old.execute("SELECT job_id, sum(n_steps) FROM entries GROUP BY job_id"))
    jobs = storage.page(PROJECT, 100).jobs
    assert {job.id: job.state.status.value for job in jobs} == statuses
    assert Counter(statuses.values()).keys() == {"searching", "training", "cancelled", "finished"}
    for job in jobs:
        history = list(storage.history(job.id, losses=True))
        assert [entry.directive.number for entry in history] == list(range(1, n_entries[job.id] + 1))
        assert history[-1].directive == job.state.directive
        losses = [entry.report.losses for entry in history if entry.report is not None]
        assert sum(len(some) for some in losses if some is not None) == (n_losses[job.id] or 0)
