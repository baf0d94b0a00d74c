"""For all tests: the order in which frameworks come into this process."""

from __future__ import annotations

import pytest

LAST = ("test_keras.py", "test_jax.py")
"""JAX starts threads when it is imported; a process that has them must not fork, as loaders with workers do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the modules that import JAX behind all others; the order is otherwise kept."""
    items.sort(key=lambda item: LAST.index(item.path.name) if item.path.name in LAST else -1)
