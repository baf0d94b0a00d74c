"""What several end-to-end suites start once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers.fork_server import ForkServer, shared
from tests.support.servers.postgresql import PostgreSQL
from tuner_server.storage import open_storage


@pytest.fixture(scope="session")
def fork_server() -> ForkServer:
    """Starts servers quickly."""
    return shared()


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL, tmp_path: Path) -> str:
    """A database with a schema and no jobs."""
    url = postgresql_server.create_database(tmp_path.name)
    open_storage(url, upgrade=True).close()
    return url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that a server will make."""
    return f"sqlite:///{tmp_path}/jobs.db"
