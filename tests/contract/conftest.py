"""What the contract suites run on: a SQLite file, a schema of a PostgreSQL, a backend from elsewhere."""

from __future__ import annotations

import itertools
from pathlib import Path

import psycopg
import pytest

from tests.support.servers.postgresql import PostgreSQL

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets the suite of backends run on one from outside of this repository."""
    parser.addoption(
        "--backend",
        metavar="MODULE:CLASS",
        help="the only small run (a tests.support.backends.small_run.SmallRun) that test_backend.py runs on",
    )


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL) -> str:
    """The URL of an empty schema: as good as a database here, and far cheaper."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgresql_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{postgresql_server.url}?options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/lrpilot.db"
    url: str = request.getfixturevalue("postgresql_url")
    return url
