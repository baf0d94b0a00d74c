"""For all tests: the order of frameworks, what the garbage collector looks at, and what is started once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from fnmatch import fnmatch

import lrpilot.transport  # noqa: F401  # before any module imports gRPC, which it sets up for processes that fork
import pytest

from tests.support.servers import postgresql, server_process
from tests.support.servers.postgresql import PostgreSQL
from tests.support.servers.server_process import ServerProcess

LAST = ("test_keras*.py", "test_backend.py", "test_jax*.py")
"""JAX starts threads when it first computes; a process that has them must not fork, as loaders with workers do."""

pytest_plugins = ["tests.support.device_plugin"]

gc.disable()  # until all is imported: a million objects that stay, looked through again and again while they come


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the modules that use JAX behind all others; the order is otherwise kept."""
    items.sort(key=lambda item: next((i for i, last in enumerate(LAST) if fnmatch(item.path.name, last)), -1))


def pytest_collection_finish() -> None:
    """Leaves what was imported out of all collections to come: each would take most of a second."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embedded servers keep their jobs in a directory of the tests', and nothing that this machine's user set holds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LRPILOT_")]:
            patch.delenv(name)
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for all tests that do nothing to it but open jobs."""
    with server_process.running(f"sqlite:///{tmp_path_factory.mktemp('shared') / 'jobs.db'}") as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A PostgreSQL with no database of a test's yet. It may be stopped, if it is started again."""
    with postgresql.running() as server:
        yield server
