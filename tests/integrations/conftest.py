"""What several frameworks' tests have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.training.rank_processes import RankProcesses


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    """Two processes that train together, on gloo."""
    with RankProcesses(2, tmp_path_factory.mktemp("processes") / "meeting_point") as processes:
        yield processes
