from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from tuner_server.core.errors import SchemaVersionError
from tuner_server.storage import Database, Upgrade, current_version, open_storage, upgrade_schema
from tuner_server.storage.schema import head_version, migration_config
from tuner_server.storage.tables import VERSION_TABLE


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lrpilot.db"


def test_a_fresh_database_is_made_by_the_migrations(url: str) -> None:
    with Database(url) as database:
        assert current_version(database) is None
        assert upgrade_schema(database) == Upgrade(None, head_version())
        assert current_version(database) == head_version()
        assert upgrade_schema(database) == Upgrade(head_version(), head_version())


def test_opening_makes_or_upgrades_an_embedded_database(url: str) -> None:
    for _ in range(2):
        with open_storage(url) as storage:
            assert storage.page("default", 1).jobs == ()


def test_a_database_at_any_older_version_is_upgraded(tmp_path: Path) -> None:
    script = ScriptDirectory.from_config(migration_config())
    for version in [revision.revision for revision in script.walk_revisions()]:
        url = f"sqlite:///{tmp_path}/{version}.db"
        with Database(url) as database:
            with database.writing() as connection:
                alembic.command.upgrade(migration_config(connection), version)
            assert current_version(database) == version
            assert upgrade_schema(database) == Upgrade(version, head_version())


def test_servers_that_start_together_make_one_database(tmp_path: Path) -> None:
    for attempt in range(5):
        url, barrier = f"sqlite:///{tmp_path}/{attempt}.db", threading.Barrier(4)

        def start(url: str = url, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with open_storage(url) as storage:
                storage.ping()

        with ThreadPoolExecutor(4) as pool:
            for started in [pool.submit(start) for _ in range(4)]:
                started.result()


def test_a_newer_database_is_refused_and_left_unchanged(url: str, tmp_path: Path) -> None:
    open_storage(url).close()
    with Database(url) as database, database.writing() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9876'"))
    before = (tmp_path / "lrpilot.db").read_bytes()
    with pytest.raises(SchemaVersionError, match=f"9876.* {head_version()} "):
        open_storage(url)
    assert (tmp_path / "lrpilot.db").read_bytes() == before


def test_versions_are_a_line_of_readable_numbers() -> None:
    script = ScriptDirectory.from_config(migration_config())
    versions = [revision.revision for revision in script.walk_revisions()][::-1]
    assert versions == [f"{number:04}" for number in range(1, len(versions) + 1)]


def test_a_database_opens_though_its_mark_can_not_be_noted_and_keeps_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    open_storage(url).close()
    lock = tmp_path / "jobs.db-lock"
    noted = lock.read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        open_storage(url).close()
    assert lock.read_bytes() == noted != b""
    open_storage(url).close()
    assert lock.read_bytes() != noted
