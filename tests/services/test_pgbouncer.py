"""Servers whose database is behind PgBouncer, in both of its modes: jobs run through, and none is told UNAVAILABLE."""

from __future__ import annotations

import configparser
import contextlib
import itertools
import os
from pathlib import Path

import psycopg
import pytest

from tests.support.crashes import checking_clients
from tests.support.crashes.checking_clients import CheckingClients
from tests.support.crashes.server_fleet import ServerFleet
from tests.support.servers import fork_server, pgbouncer
from tests.support.servers.postgresql import PostgreSQL
from tests.support.waiting import wait_until
from tuner_server.core.errors import StorageError
from tuner_server.storage import Database, compaction, open_storage
from tuner_server.storage.backups.backup import backup
from tuner_server.storage.backups.restore import restore
from tuner_server.storage.drivers.postgresql import LIMITS

pytestmark = pytest.mark.slow
N_SERVERS = 2
N_JOBS = 8
REPORTS = 200
DOCUMENTED = configparser.ConfigParser()
"""The pgbouncer.ini that operators are given."""
DOCUMENTED.read_string(
    Path(__file__).parents[2].joinpath("docs/operations.md").read_text().split("```ini\n")[1].split("```")[0]
)
POOLERS: dict[str, dict[str, object]] = {
    "documented": dict(DOCUMENTED["pgbouncer"]),
    # More clients' connections than PostgreSQL's; each transaction gets any of these.
    "small": {"pool_mode": "transaction", "default_pool_size": 3},
    "transaction_reset": {
        "pool_mode": "transaction",
        "default_pool_size": 4,
        "server_reset_query": "DISCARD ALL",
        "server_reset_query_always": 1,
    },
    # One of PostgreSQL's for each of a client's.
    "session": {"pool_mode": "session", "default_pool_size": 40},
}
_numbers = itertools.count()


@pytest.fixture
def database(postgresql_server: PostgreSQL) -> str:
    """The name of an empty database."""
    return postgresql_server.create_database(f"pooled_{next(_numbers)}").rpartition("/")[2]


@pytest.mark.parametrize("pooler", POOLERS)
def test_jobs_run_through(pooler: str, database: str, postgresql_server: PostgreSQL, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(pgbouncer.running(postgresql_server, database, **POOLERS[pooler]))  # type: ignore[arg-type]
        open_storage(url, upgrade=True).close()
        fleet = stack.enter_context(ServerFleet(fork_server.shared(), url, N_SERVERS, tmp_path))
        wait_until(lambda: fleet.log().count("event=serving") == N_SERVERS)
        with CheckingClients(fleet.targets, checking_clients.configs(N_JOBS)) as jobs:
            jobs.wait_for(REPORTS)
        assert jobs.refusals == {}
        assert jobs.ended >= N_JOBS
        # Nothing of a transaction stays with the session, which another application may get.
        with psycopg.connect(url, autocommit=True) as other:
            for name in LIMITS:
                assert other.execute(f"SHOW {name}".encode()).fetchone() == ("0",)


@pytest.mark.parametrize("pooler", POOLERS)
def test_every_transaction_has_its_limits_and_the_urls_options(
    pooler: str, database: str, postgresql_server: PostgreSQL
) -> None:
    with pgbouncer.running(postgresql_server, database, **POOLERS[pooler]) as url:  # type: ignore[arg-type]
        options = "options=-csearch_path%3Dpg_catalog%20-cstatement_timeout%3D2s"
        with Database(f"{url}?{options}") as opened:
            for _ in range(20):
                with opened.reading() as connection:
                    found = [
                        connection.exec_driver_sql(f"SHOW {name}").scalar_one()
                        for name in ("lock_timeout", "statement_timeout", "search_path")
                    ]
                assert found == ["2s", "2s", "pg_catalog"]


def test_a_database_is_compacted_through_it_but_backed_up_and_restored_beside_it(
    database: str, postgresql_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(postgresql_server.binaries), prepend=os.pathsep)
    direct = f"postgresql://postgres@{postgresql_server.target}/{database}"
    with pgbouncer.running(postgresql_server, database, "transaction") as url:
        open_storage(url, upgrade=True).close()
        with Database(url) as opened:
            compaction.compact(opened)
            with pytest.raises(StorageError, match="through a pooler: give the address of PostgreSQL itself"):
                backup(opened, tmp_path / "copy")
        with Database(direct) as opened:
            backup(opened, tmp_path / "copy")
        with Database(url) as opened, pytest.raises(StorageError, match="through a pooler"):
            restore(opened, tmp_path / "copy")
        # What PgBouncer keeps of clients that have gone looks like a server that is still there.
        with Database(direct) as opened, pytest.raises(StorageError, match="let a pooler drop those that it keeps"):
            restore(opened, tmp_path / "copy")
    with Database(direct) as opened:
        restore(opened, tmp_path / "copy")
