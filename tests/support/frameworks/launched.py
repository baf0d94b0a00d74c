"""What a launcher such as torchrun tells its processes."""

from __future__ import annotations

import os
import signal

import torch.distributed as dist


def as_launched() -> None:
    """Sets, in a process whose group is there already, the variables that a framework looks for."""
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": "0",
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
        "TORCHELASTIC_RUN_ID": "tests",
        "OMP_NUM_THREADS": "1",
        "LRPILOT_PROGRESS": "0",
    }


def kill(pid: int) -> None:
    """Ends a process, such as the server, at once; rank 0 does it for all."""
    if dist.get_rank() == 0:
        os.kill(pid, signal.SIGKILL)
