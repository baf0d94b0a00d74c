"""Space that comes back, and jobs that are deleted in short transactions, however long they were."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.repository import old_databases
from tuner_server.core.errors import StorageError
from tuner_server.storage import Database, compaction, deletion, open_storage
from tuner_server.storage.compaction import compact
from tuner_server.storage.deletion import delete_jobs
from tuner_server.storage.tables import EntryRow, JobRow

OLD = "2026-01-01 00:00:00+00:00"
LOSSES = b"\x00" * 4000


def write_jobs(database: Database, **entries_by_job: int) -> None:
    """Writes jobs with so many entries, of 4,000 bytes each."""
    with database.writing() as connection:
        for job_id, n_entries in entries_by_job.items():
            connection.execute(
                sa.text(
                    "INSERT INTO jobs (id, project, request_id, request_fingerprint, name, family, policy, status,"
                    " state, version, create_time, update_time)"
                    " VALUES (:id, 'default', :id, :none, '', '', '', 'finished', '', 0, :time, :time)"
                ),
                {"id": job_id, "time": OLD, "none": b""},
            )
            rows = [{"id": job_id, "number": i + 1, "losses": LOSSES} for i in range(n_entries)]
            connection.execute(
                sa.text("INSERT INTO entries (job_id, number, directive, losses) VALUES (:id, :number, '{}', :losses)"),
                rows,
            )


def count(database: Database, job_id: str) -> list[int]:
    """The numbers of a job's entries."""
    with database.reading() as connection:
        query = sa.select(EntryRow.number).where(EntryRow.job_id == job_id).order_by(EntryRow.number)
        return list(connection.execute(query).scalars())


@pytest.fixture
def small_transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Deletes at most ten entries at once; the list has how many whole jobs each transaction deleted."""
    monkeypatch.setattr(deletion, "ENTRIES_AT_ONCE", 10)
    done: list[int] = []
    whole = deletion._delete_whole

    def noted(connection: sa.Connection, ids: list[str]) -> int:
        done.append(whole(connection, ids))
        return done[-1]

    monkeypatch.setattr(deletion, "_delete_whole", noted)
    return done


ALL = sa.select(JobRow.id).order_by(JobRow.id)


def test_a_long_job_is_deleted_from_its_end_in_several_transactions(
    database_url: str, small_transactions: list[int]
) -> None:
    open_storage(database_url, upgrade=True).close()
    with Database(database_url) as database:
        write_jobs(database, a=3, b=4, c=35, d=2)
        assert delete_jobs(database, ALL, 3) == 3
        assert small_transactions == [2, 0, 0, 0, 0, 1]
        assert count(database, "c") == []
        assert count(database, "d") == [1, 2]
        assert delete_jobs(database, ALL, 10) == 1
        assert delete_jobs(database, ALL, 10) == 0


def test_the_size_on_the_disk_grows_with_what_is_kept(database_url: str) -> None:
    with open_storage(database_url, upgrade=True) as storage, Database(database_url) as database:
        before = storage.size()
        write_jobs(database, a=100)
        assert storage.size() - before > 50_000  # PostgreSQL compresses


def test_no_transaction_deletes_more_than_its_bytes_or_one_entry(
    database_url: str, small_transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage(database_url, upgrade=True).close()
    with Database(database_url) as database:
        for n_at_once, transactions in [(3, [0, 0, 0, 1]), (0.5, [0] * 8 + [1])]:
            small_transactions.clear()
            monkeypatch.setattr(deletion, "BYTES_AT_ONCE", int(n_at_once * len(LOSSES)))
            write_jobs(database, a=8)
            assert delete_jobs(database, ALL, 10) == 1
            assert small_transactions == transactions


def test_writers_have_their_turns_while_many_jobs_are_deleted(tmp_path: Path, small_transactions: list[int]) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    open_storage(url).close()
    with Database(url) as database:
        write_jobs(database, **{f"job{i:02}": 9 for i in range(30)})
        deleting = threading.Thread(target=delete_jobs, args=(database, ALL, 30))
        deleting.start()
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", timeout=2.0, isolation_level=None)) as writer:
            while deleting.is_alive():
                writer.execute("UPDATE projects SET max_live_jobs = 100")
    assert small_transactions == [1] * 30


def test_a_file_gets_smaller_when_jobs_were_deleted_while_servers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "PAGES_AT_ONCE", 50)
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_storage(url) as server, Database(url) as database:
        server.ping()
        write_jobs(database, a=150, b=10)
        delete_jobs(database, ALL, 1)
        done = compact(database)
        assert done.before > 600_000
        assert done.after < 300_000
        assert done.after == sum(
            path.stat().st_size for path in tmp_path.iterdir() if path.name in ("jobs.db", "jobs.db-wal")
        )
        assert count(database, "b") == list(range(1, 11))
        assert "given back" in str(done)


def test_writers_need_not_wait_for_readers_while_the_log_is_to_be_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LOG_TRIES", 20)
    url = f"sqlite:///{tmp_path}/jobs.db"
    open_storage(url).close()
    with Database(url) as database, Database(url) as other, database.reading() as reader:
        reader.execute(ALL).all()
        write_jobs(database, a=150)
        compacting = threading.Thread(target=compact, args=(other,))
        compacting.start()
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", timeout=0.5, isolation_level=None)) as writer:
            while compacting.is_alive():
                writer.execute("UPDATE jobs SET note = 'written'")
        assert (tmp_path / "jobs.db-wal").stat().st_size > 0  # the reader needs it


def test_a_file_of_a_former_version_is_rewritten_once_and_alone(tmp_path: Path) -> None:
    shutil.copy(old_databases.FILES["0001"], tmp_path / "jobs.db")
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_storage(url) as server, Database(url) as database:
        server.ping()
        done = compact(database, rewrite=False)
        assert (done.before, done.remark) == (done.after, compaction.ONCE)
        with pytest.raises(StorageError, match="a server or a command has it open; stop it first"):
            compact(database)
    with Database(url) as database:
        compact(database)
        write_jobs(database, a=500)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_postgresql_cleans_its_tables(postgresql_url: str) -> None:
    open_storage(postgresql_url, upgrade=True).close()
    with Database(postgresql_url) as database:
        write_jobs(database, a=500)
        delete_jobs(database, ALL, 1)
        done = compact(database)
        assert done.after < done.before
