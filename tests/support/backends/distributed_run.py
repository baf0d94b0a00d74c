"""A small run of one rank of a process group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from lrpilot.distributed.backend import DistributedBackend
from lrpilot.distributed.ranks import Ranks

from tests.support.backends.small_run import WIDTH, Validate
from tests.support.backends.torch_run import TorchRun


class DistributedRun(TorchRun):
    """The run in PyTorch, whose losses are means over the ranks: over this one alone."""

    def __init__(self, validate: Validate | None = None, width: int = WIDTH) -> None:
        super().__init__(validate, width)
        group = dist.group.WORLD
        assert group is not None
        self.backend = DistributedBackend(self.backend, Ranks(group, patience_s=10))


@contextlib.contextmanager
def group_of_one(meeting_point: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
