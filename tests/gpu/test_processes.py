"""Two processes that train one model on a device, by DDP and FSDP2: probes leave no trace on either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.training import device_ranks
from tests.support.training.rank_processes import RankProcesses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    with RankProcesses(2, tmp_path_factory.mktemp("processes") / "meeting_point") as processes:
        yield processes


@pytest.mark.parametrize(("kind", "place"), [("ddp", "device"), ("views", "host"), ("fsdp", "device")])
def test_probes_leave_no_trace_on_any_rank(
    processes: RankProcesses, device: torch.device, kind: str, place: str
) -> None:
    first, second = processes.run(device_ranks.no_trace, kind, device.type, place)
    assert first == second
