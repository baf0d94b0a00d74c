"""The replicas of a model that several ranks train alike, and that may be trained apart for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lrpilot.backends.torch.updates import family_of
from lrpilot.errors import ConfigError


class Replicas:
    """The `DistributedDataParallel` modules of a run, which average gradients over the ranks, or leave them alone.

    Apart, they do what they do in `no_sync`. Their buffers are those of rank 0 at the first forward pass, and each
    rank's own after it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        register: Mapping[str, Any],
        n_ranks: int,
    ) -> None:
        """Leaves the modules as they are.

        Args:
            model: what is trained.
            optimizers: that train it.
            register: what else changes as it trains.
            n_ranks: how many train it.

        Raises:
            ConfigError: something makes the ranks one that can't be switched off for a while.
        """
        self._modules = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
        self._trained: list[nn.Module | torch.optim.Optimizer] = [model, *optimizers]
        self._kept: list[tuple[bool, bool]] = []
        fault = next(_faults(model, self._modules, optimizers, register, n_ranks), "")
        if fault:
            raise ConfigError(f"population: {fault}; leave out population=True, and ranks probe together")

    def hold_apart(self, apart: bool) -> None:
        """Has the ranks update weights of their own, or the same ones again as before."""
        if apart:
            self._kept = [(each.require_backward_grad_sync, each.require_forward_param_sync) for each in self._modules]
        for module, kept in zip(self._modules, self._kept, strict=True):
            # What the buffers are is settled once, whatever came before.
            together = (False, True) if apart else kept
            module.require_backward_grad_sync, module.require_forward_param_sync = together

    def state_dict(self) -> list[dict[str, Any]]:
        """What this rank trains, and the state of its optimizers."""
        return [each.state_dict() for each in self._trained]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Has this rank train what another one does."""
        for each, state in zip(self._trained, states, strict=True):
            each.load_state_dict(state)


def _faults(
    model: nn.Module,
    replicated: Sequence[DistributedDataParallel],
    optimizers: Sequence[torch.optim.Optimizer],
    register: Mapping[str, Any],
    n_ranks: int,
) -> Iterator[str]:
    """What makes ranks one besides the gradients of the modules that average them."""
    trained = [parameter for each in optimizers for group in each.param_groups for parameter in group["params"]]
    if any(isinstance(parameter, DTensor) for parameter in [*model.parameters(), *trained]):
        yield "the model is sharded (FSDP2, or a DTensor), so no rank has one of its own to try a candidate with"
    if not replicated:
        yield "model: there is no DistributedDataParallel in it; give the tuner that module, not the one inside it"
    averaged = {id(parameter) for module in replicated for parameter in module.parameters()}
    if any(id(parameter) not in averaged for parameter in trained):
        yield "optimizer: it trains parameters outside DistributedDataParallel"
    for module in replicated:
        if module.static_graph:
            yield "DistributedDataParallel(static_graph=True) can't leave gradients alone in its first steps"
        if module.process_group.size() != n_ranks:
            yield f"DistributedDataParallel is over {module.process_group.size()} ranks, and the tuner over {n_ranks}"
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        yield "SyncBatchNorm has all ranks normalise with the batches of all"
    for each in (member for optimizer in optimizers for member in family_of(optimizer)):
        if type(each).__module__.startswith("torch.distributed"):
            yield f"optimizer: {type(each).__name__} communicates with the other ranks at every step"
    scalers = [name for name, value in register.items() if isinstance(value, torch.amp.GradScaler)]
    if scalers:
        yield f"register: the GradScaler {scalers[0]} would skip steps on some ranks and not on others; use bfloat16"
