"""What the contract suites run on: a SQLite file, a schema of a PostgreSQL, a policy or a backend from elsewhere."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.servers.postgresql import PostgreSQL


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets authors hold a policy or a backend of their own to its contract."""
    group = parser.getgroup("lrpilot", "the contracts of policies and backends")
    group.addoption("--policy", metavar="NAME", help="test this installed policy, and none of LRPilot's own")
    group.addoption(
        "--policy-options",
        metavar="JSON",
        type=_json_object,
        default="{}",
        help="options with which it is through in some thousand steps",
    )
    group.addoption(
        "--backend",
        metavar="MODULE:CLASS",
        help="the only small run (a tests.support.backends.small_run.SmallRun) that test_backend.py runs on",
    )


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"candidates": 3}}')
    return found


_numbers = itertools.count()


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
