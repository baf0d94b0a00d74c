"""Runs of several ranks on one device, for `RankProcesses` to run: over gloo, since NCCL wants a device for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.support.devices import deterministic
from tests.support.training.device_training import DeviceRun, assert_no_trace, script


def replicated(model: nn.Module) -> nn.Module:
    """A model whose gradients DDP averages."""
    return DistributedDataParallel(model)


def with_views(model: nn.Module) -> nn.Module:
    """A model whose gradients are views of DDP's buckets."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def sharded(model: Any) -> nn.Module:
    """A model that FSDP2 shards, each block by itself."""
    return _sharded(model, MixedPrecisionPolicy())


def sharded_half(model: Any) -> nn.Module:
    """A model that computes in bfloat16 with weights that FSDP2 shards."""
    return _sharded(model, MixedPrecisionPolicy(param_dtype=torch.bfloat16))


def _sharded(model: Any, policy: MixedPrecisionPolicy) -> nn.Module:
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    wrapped: nn.Module = model
    return wrapped


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ddp": replicated,
    "views": with_views,
    "fsdp": sharded,
    "fsdp, half": sharded_half,
}


def no_trace(kind: str, device: str, place: str) -> list[float]:
    """Fails unless probes leave no trace on this rank; gives the LRs that it committed."""
    with deterministic():
        _, log = assert_no_trace(
            lambda: DeviceRun(torch.device(device), "language", "adamw", wrap=WRAPPERS[kind]),
            script(wild=30),
            snapshot=place,
        )
    return [lrs[0] for _, lrs, _ in log.steps]
