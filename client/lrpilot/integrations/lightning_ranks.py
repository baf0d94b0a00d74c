"""Several processes of a Lightning Trainer: which ways to share a training can be tuned, and one checkpoint for all.

Lightning writes the state that a callback has on rank 0, and each rank's tuner has its own: losses, random state, a
snapshot. So rank 0 is sent what the others have, as bytes that none but their rank unpacks.
"""

from __future__ import annotations

import io
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    XLAStrategy,
)

from lrpilot.distributed.packing import packed
from lrpilot.distributed.ranks import number_of
from lrpilot.errors import ConfigError

_ENGINES = (DeepSpeedStrategy, XLAStrategy)
"""Those of the strategies of replicas that keep what is trained to themselves."""
_EVERYBODYS = (("snapshot", "snapshot", "roots", ""), ("snapshot", "snapshot", "optimizers"), ("ending", "average"))
"""Where a tuner's state holds what is the same on all replicas of a model."""


def refuse_other_strategies(strategy: Strategy) -> None:
    """Raises: ConfigError: several processes share the training in another way than as replicas or by FSDP2."""
    if isinstance(strategy, ModelParallelStrategy):
        if strategy.device_mesh["tensor_parallel"].size() > 1:
            raise ConfigError(
                "lightning: a ModelParallelStrategy whose tensor_parallel_size is not 1 can't be tuned; give all its "
                "processes to data_parallel_size, and shard by fully_shard in configure_model"
            )
    elif isinstance(strategy, _ENGINES) or not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise ConfigError(
            f"lightning: a {type(strategy).__name__} can't be tuned; use strategy='ddp', or for sharded models "
            "ModelParallelStrategy (FSDP2)"
        )


def are_replicas(strategy: Strategy) -> bool:
    """Whether every rank has the whole model."""
    return not isinstance(strategy, ModelParallelStrategy)


def of_all_ranks(state: dict[str, Any], *, replicas: bool) -> dict[str, Any]:
    """The states of all ranks, on rank 0; collective. Empty on the others, and if a rank has none.

    Args:
        state: this rank's; what a process that trains alone has is given back as it is.
        replicas: whether all ranks have the same weights: one copy of them is kept.
    """
    size = number_of(None)
    if size == 1:
        return state
    rank = dist.get_rank()
    own = _without_everybodys(state) if replicas and rank > 0 else state
    message = packed(own) if state else b""
    messages: list[bytes] = [b""] * size
    group = dist.new_group(backend="gloo")  # NCCL's would have them on a GPU
    try:
        dist.gather_object(message, messages if rank == 0 else None, dst=0, group=group)
    finally:
        dist.destroy_process_group(group)
    if rank > 0 or not all(messages):
        return {}
    return {"ranks": [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in messages], "replicas": replicas}


def of_own_rank(states: dict[str, Any]) -> dict[str, Any]:
    """What `of_all_ranks` was given on this rank. Raises: ConfigError: by another number of ranks."""
    size, ranks = number_of(None), states.get("ranks")
    n_saved = 1 if ranks is None else len(ranks)
    if n_saved != size:
        raise ConfigError(
            f"lightning: the checkpoint was saved by {n_saved} processes, and these are {size}; go on with as many"
        )
    if ranks is None:
        return states
    rank = dist.get_rank()
    own = _unpacked(ranks[rank])
    if rank > 0 and states["replicas"]:
        _fill(own, _unpacked(ranks[0]))
    return own


def _unpacked(message: torch.Tensor) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(message.numpy().tobytes()), map_location="cpu", weights_only=True)
    return state


def _without_everybodys(state: dict[str, Any]) -> dict[str, Any]:
    """A copy that lacks what rank 0 has, too."""
    lighter = {**state, "tuner": dict(state["tuner"])} if state else {}
    for path in _EVERYBODYS if state else ():
        holder = lighter["tuner"]
        for name in path[:-1]:
            if holder.get(name) is None:
                break
            holder[name] = dict(holder[name])
            holder = holder[name]
        else:
            holder.pop(path[-1], None)
    return lighter


def _fill(own: dict[str, Any], first: dict[str, Any]) -> None:
    """Gives a rank what was left out of its state."""
    for path in _EVERYBODYS:
        holder, source = own["tuner"], first["tuner"]
        for name in path[:-1]:
            if source.get(name) is None:
                break
            holder, source = holder[name], source[name]
        else:
            holder[path[-1]] = source[path[-1]]
