"""States of Accelerate that it sets on GPUs only, set on the CPU."""

from __future__ import annotations

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin


def set_kind(kind: str) -> None:
    """Has every state of Accelerate's say that the processes share the training in this way."""
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        state["distributed_type"] = DistributedType(kind)


def small_shards() -> FullyShardedDataParallelPlugin:
    """FSDP2 for models of a hundred weights."""
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=100, cpu_ram_efficient_loading=False
    )
