"""Two processes that train one model on a device, by DDP and FSDP2: probes leave no trace on either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.support.training import device_ranks
from tests.support.training.rank_processes import RankProcesses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankProcesses]:
    with RankProcesses(2, tmp_path_factory.mktemp("processes") / "meeting_point") as processes:
        yield processes


@pytest.mark.parametrize(
    ("kind", "place"), [("ddp", "device"), ("views", "host"), ("fsdp", "device"), ("fsdp, half", "host")]
)
def test_probes_leave_no_trace_on_any_rank(
    processes: RankProcesses, device: torch.device, kind: str, place: str
) -> None:
    first, second = processes.run(device_ranks.no_trace, kind, device.type, place)
    assert first == second


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NCCL is CUDA's")
@pytest.mark.parametrize("kind", list(device_ranks.WRAPPERS))
def test_nor_do_they_where_nccl_speaks_for_a_single_rank(kind: str, tmp_path: Path) -> None:
    """Two ranks of NCCL need two devices; what one of them does alone is the same otherwise."""
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert device_ranks.no_trace(kind, "cuda", "device")
    finally:
        dist.destroy_process_group()
