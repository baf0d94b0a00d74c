"""Which ranks share a model, and what their communication keeps from step to step, as far as PyTorch's objects tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lrpilot.backends.torch.updates import family_of
from lrpilot.errors import ConfigError
from lrpilot.objects.graph import ObjectGraph


def refuse_other_ranks(model: nn.Module, n_ranks: int) -> None:
    """Refuses to take all `n_ranks` that there are for those of a model that lies on some: nobody else would come.

    Raises:
        ConfigError: no group was given, and one is needed.
    """
    for what, size in _sizes(model):
        if size != n_ranks:
            raise ConfigError(
                f"process_group: {what} over {size} ranks, and there are {n_ranks}; give the group of those that share "
                "the model, or torch.distributed.group.WORLD if all do"
            )


def _sizes(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Over how many ranks the parts of a model are."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            yield "DistributedDataParallel is", module.process_group.size()
    for parameter in model.parameters():
        mesh = getattr(parameter, "device_mesh", None)  # of a DTensor
        if mesh is not None:
            yield "the model is sharded", mesh.size()


def kept_by_communication(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """What changes as ranks exchange gradients or weights, by name: a rollback must not leave it ahead.

    That is the state of communication hooks of DistributedDataParallel (what PowerSGD has left out so far), and the
    count of steps of an optimizer that averages weights now and then (PostLocalSGDOptimizer).
    """
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        if isinstance(module, DistributedDataParallel):
            for number, (_, state) in enumerate(module._comm_hooks):
                found[f"communication hook {number} of {path or 'the model'}"] = state
    for number, optimizer in enumerate(_with_inner(optimizers)):
        found[f"averager of optimizer {number}"] = getattr(optimizer, "averager", None)
    return {name: state for name, state in found.items() if state is not None and ObjectGraph.reaches(state)}


class Joining:
    """Whether a loop may end at different steps on different ranks, as it does within DDP's `join`."""

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Finds what can be joined: `DistributedDataParallel`, and ZeroRedundancyOptimizer."""
        parts: Iterable[Any] = [*model.modules(), *_with_inner(optimizers)]
        self._parts = [each for each in parts if hasattr(each, "_join_config")]

    def refuse(self) -> None:
        """Raises: ConfigError: a loop is within `join`."""
        for each in self._parts:
            if each._join_config.enable:
                raise ConfigError(
                    "join: ranks that end at different steps can't be tuned, as each waits for all at every decision; "
                    "leave join() out and draw from tuner.batches(loader), which goes on with a loader that is shorter "
                    "on a rank"
                )


def _with_inner(optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """The optimizers, and those inside of them."""
    return [member for each in optimizers for member in family_of(each)]
