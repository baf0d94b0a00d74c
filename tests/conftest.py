"""For all tests: the order in which frameworks come into this process, and what its garbage collector looks at."""

from __future__ import annotations

import gc

import pytest

LAST = ("test_keras.py", "test_backend.py", "test_jax.py")
"""JAX starts threads when it is imported; a process that has them must not fork, as loaders with workers do."""

gc.disable()  # until all is imported: a million objects that stay, looked through again and again while they come


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the modules that use JAX behind all others; the order is otherwise kept."""
    items.sort(key=lambda item: LAST.index(item.path.name) if item.path.name in LAST else -1)


def pytest_collection_finish() -> None:
    """Leaves what was imported out of all collections to come: each would take most of a second."""
    gc.freeze()
    gc.enable()
