"""How long a transaction on PostgreSQL may take, whoever is to blame; and what else a session has."""

from __future__ import annotations

import datetime

import psycopg
import pytest
import sqlalchemy as sa

from tuner_server.core.errors import StorageError
from tuner_server.storage import Database, database
from tuner_server.storage.drivers import postgresql

SHORT_S = 0.3


def setting(opened: Database, name: str) -> str:
    with opened.reading() as connection:
        return str(connection.exec_driver_sql(f"SHOW {name}").scalar_one())


def sleep(connection: sa.Connection, seconds: float) -> None:
    connection.execute(sa.text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


def test_a_session_has_time_limits_unless_the_url_gives_others(postgresql_url: str) -> None:
    with Database(postgresql_url) as opened:
        assert setting(opened, "lock_timeout") == "2s"
        assert setting(opened, "statement_timeout") == "3s"
        assert setting(opened, "idle_in_transaction_session_timeout") == "10s"
    with Database(postgresql_url + "%20-cstatement_timeout%3D7s") as opened:
        assert setting(opened, "statement_timeout") == "7s"
        assert setting(opened, "lock_timeout") == "2s"


def test_a_transaction_that_gets_no_answer_is_given_up(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "TRANSACTION_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(database, "LONG_WAIT_S", 60.0)
    with Database(postgresql_url) as opened:

        def write() -> None:
            with opened.writing() as connection:
                connection.exec_driver_sql("CREATE TABLE t (x INTEGER)")
                sleep(connection, 30)

        with pytest.raises(StorageError, match=r"no answer in time$"):
            write()
        with opened.reading() as connection:  # another connection; nothing was committed
            assert not sa.inspect(connection).has_table("t")


def test_the_limit_is_of_the_transaction_not_of_each_statement(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "TRANSACTION_TIMEOUT_S", SHORT_S)
    with Database(postgresql_url) as opened:

        def read() -> None:
            with opened.reading() as connection:
                for _ in range(10):
                    sleep(connection, SHORT_S / 3)

        with pytest.raises(StorageError, match=r"no answer in time$"):
            read()


def test_a_connection_may_lie_idle_for_longer(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "TRANSACTION_TIMEOUT_S", SHORT_S)
    with Database(postgresql_url) as opened, psycopg.connect(postgresql_url) as clock:
        setting(opened, "lock_timeout")
        clock.execute("SELECT pg_sleep(%s)", [1.5 * SHORT_S])
        setting(opened, "lock_timeout")


def test_changes_of_the_schema_take_as_long_as_they_take(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "TRANSACTION_TIMEOUT_S", SHORT_S)
    with Database(postgresql_url + "%20-cstatement_timeout%3D200") as opened:
        with opened.migrating() as connection:
            sleep(connection, 2 * SHORT_S)
            connection.exec_driver_sql("CREATE TABLE t (x INTEGER)")
        with opened.reading() as connection:
            assert sa.inspect(connection).has_table("t")


def test_answers_are_written_as_we_read_them_whatever_is_usual(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATESTYLE", "German, DMY")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    now = datetime.datetime(2026, 11, 29, 12, 30, 15, 123456, datetime.UTC)
    with (
        Database(postgresql_url + "%20-cdatestyle%3DSQL%20-cextra_float_digits%3D-5") as opened,
        opened.reading() as connection,
    ):
        query = sa.text("SELECT CAST(:time AS timestamptz), CAST(:number AS double precision), CAST(:name AS text)")
        values = (now, 0.1 + 0.2, "Größe \N{SNOWMAN}")
        assert connection.execute(query, dict(zip(("time", "number", "name"), values, strict=True))).one() == values
