"""In-run rollback: what a probe may change, remembered in memory and put back in place.

What is remembered is a graph of tensors and of the dicts and lists that hold them: the parameter and buffer tables of
modules, the state and the parameter groups of optimizers, the state dicts of registered objects. Of a tensor its values
are kept, of a container its contents. Restoring puts the same objects back where they were and fills them, so that
addresses survive (a compiled step is not compiled again, a CUDA graph stays valid), state that a probe made is gone,
and state that it removed is back.

Of distributed tensors (FSDP2, tensor parallelism) every process copies its own shards, with no communication.

Not remembered: plain Python attributes of modules and optimizers, generator objects, anything outside the process.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from lrpilot.copies import Copier, kind, nbytes, values
from lrpilot.placement import STATE_TENSORS, Demand, choose
from lrpilot.reachable import Reachable
from lrpilot.rng import RandomState


class Stateful(Protocol):
    """Anything with a state dict: a GradScaler, an average of weights, a scheduler."""

    def state_dict(self) -> Any:
        """The state, as dicts, lists, tensors and plain values."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Goes back to a state."""


class Snapshot:
    """Rollback state of a run. Make one, and use it for every probe: its memory is used again.

    Modules among the registered objects are treated like the model, in place; other objects by their state dicts. The
    snapshot holds every parameter, a frozen one too: an encoder that follows another by a moving average is frozen, and
    still changes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        registered: Mapping[str, Stateful],
        placement: str | os.PathLike[str] = "auto",
    ) -> None:
        """Remembers what to copy; copies nothing yet. Logs how large the snapshot will be, and where it will live.

        Args:
            model: its parameters, buffers (non-persistent ones too), extra state and modes.
            optimizers: their states, parameter groups, and parameters, also those that are not the model's.
            registered: further objects to roll back, by name.
            placement: "device", "host", "disk", a directory on the disk, or "auto"; see `lrpilot.placement`.

        Raises:
            ConfigError: there is no such placement, or the disk has not enough room.
        """
        objects = registered.values()
        self._roots = [model, *(o for o in objects if isinstance(o, nn.Module))]
        self._optimizers = tuple(optimizers)
        self._stateful = [o for o in objects if not isinstance(o, nn.Module)]
        self._taken: _Taken | None = None
        self._copier = Copier()
        self._memory = choose(placement, self._demand())

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are held; 0 before the first `take`."""
        return sum(map(nbytes, self._taken.all_copies)) if self._taken else 0

    @property
    def expected_nbytes(self) -> int:
        """Bytes that a snapshot of the present would hold once training has begun, without gradients.

        A parameter without optimizer state is taken to get two tensors of it, as Adam's. That is too much for SGD.
        """
        return self._demand().nbytes

    @torch.no_grad()
    def take(self) -> None:
        """Remembers the present, in place of what was remembered before.

        If memory runs out, what was remembered before is still there.

        Raises:
            ConfigError: the snapshot lives on disk, and needs more room than there is.
        """
        random_state = RandomState.capture()
        modules = self._modules()
        extra = [module for module in modules if _has_extra_state(module)]
        loads = [*(m.set_extra_state for m in extra), *(o.load_state_dict for o in self._stateful)]
        states = [*(m.get_extra_state() for m in extra), *(o.state_dict() for o in self._stateful)]

        reachable = self._reachable(states)
        holders = [t for t in reachable.tensors if t.is_leaf and t.grad is not None]
        originals = [*map(values, reachable.tensors), *(values(t.grad) for t in holders if t.grad is not None)]
        copies = self._memory.allocate(originals, self._taken.all_copies if self._taken else ())
        self._taken = _Taken(
            reachable=reachable,
            contents=reachable.contents(),
            copies=copies[: len(reachable.tensors)],
            gradients=dict(zip(holders, copies[len(reachable.tensors) :], strict=True)),
            loads=loads,
            states=states,
            training=[(module, module.training) for module in modules],
            random_state=random_state,
        )
        with self._copier.in_order(originals):
            self._copier.copy(originals, copies)

    @torch.no_grad()
    def restore(self) -> None:
        """Goes back to what was remembered. May be repeated.

        Learning rates go back too: whoever wants another one sets it afterwards.

        Raises:
            RuntimeError: nothing has been taken.
        """
        taken = self._taken
        if taken is None:
            raise RuntimeError("snapshot: restore() before take()")
        _reshard(self._modules())
        taken.reachable.refill(taken.contents)
        originals = [*map(values, taken.reachable.tensors)]
        with self._copier.in_order(originals):
            self._copier.copy(taken.copies, originals)
            for tensor in taken.reachable.tensors:
                if tensor.is_leaf:
                    _set_gradient(tensor, taken.gradients.get(tensor))
        for load, state in zip(taken.loads, taken.states, strict=True):
            load(state)
        for module, training in taken.training:
            module.training = training
        taken.random_state.restore()

    def state_dict(self) -> dict[str, Any] | None:
        """What is remembered, for a checkpoint: state dicts of everything, copied; None if nothing is.

        The present makes way for a moment, to a second snapshot beside this one, and is back bit for bit.
        Non-persistent buffers are not in state dicts. Of distributed tensors there are the shards of this process.
        """
        if self._taken is None:
            return None
        present = self._another()
        present.take()
        try:
            self.restore()
            return {
                "roots": [copy.deepcopy(root.state_dict()) for root in self._roots],
                "optimizers": [copy.deepcopy(optimizer.state_dict()) for optimizer in self._optimizers],
                "objects": [copy.deepcopy(each.state_dict()) for each in self._stateful],
                "random_state": self._taken.random_state.state_dict(),
            }
        finally:
            present.restore()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Remembers what another snapshot remembered. The present stays as it is."""
        if state is None:
            self._taken = None
            return
        present = self._another()
        present.take()
        try:
            for root, saved in zip(self._roots, state["roots"], strict=True):
                root.load_state_dict(saved)
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                _load_in_place(optimizer, saved)
            for each, saved in zip(self._stateful, state["objects"], strict=True):
                each.load_state_dict(saved)
            RandomState.from_state_dict(state["random_state"]).restore()
            self.take()
        finally:
            present.restore()

    def _another(self) -> Snapshot:
        """Of the same objects; empty."""
        another = copy.copy(self)
        another._taken = None
        another._memory = self._memory.another()
        return another

    def _modules(self) -> list[nn.Module]:
        return list(dict.fromkeys(module for root in self._roots for module in root.modules()))

    def _reachable(self, states: list[Any]) -> Reachable:
        """What there is to copy, and `states`."""
        modules = self._modules()
        _reshard(modules)
        reachable = Reachable()
        for root in self._roots:
            reachable.add([*root.parameters(), *root.buffers()])
        reachable.add([table for m in modules for table in (m._parameters, m._buffers)])
        reachable.add([part for o in self._optimizers for part in (o.state, o.param_groups)])
        reachable.add(states)
        return reachable

    @torch.no_grad()
    def _demand(self) -> Demand:
        copies: collections.Counter[torch.device] = collections.Counter()
        growth: collections.Counter[torch.device] = collections.Counter()
        for tensor in map(values, self._reachable([o.state_dict() for o in self._stateful]).tensors):
            copies[tensor.device] += nbytes(tensor)
        for optimizer in self._optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad):
                tensor = values(parameter)
                if parameter not in optimizer.state:
                    copies[tensor.device] += STATE_TENSORS * nbytes(tensor)
                    growth[tensor.device] += STATE_TENSORS * nbytes(tensor)
                if parameter.grad is None:
                    growth[tensor.device] += nbytes(tensor)
        return Demand(copies, growth)


@dataclasses.dataclass(frozen=True, slots=True)
class _Taken:
    """One moment."""

    reachable: Reachable
    contents: list[dict[Any, Any] | list[Any]]
    copies: list[torch.Tensor]
    gradients: dict[torch.Tensor, torch.Tensor]
    loads: list[Callable[[Any], Any]]
    states: list[Any]
    training: list[tuple[nn.Module, bool]]
    random_state: RandomState

    @property
    def all_copies(self) -> list[torch.Tensor]:
        return [*self.copies, *self.gradients.values()]


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _reshard(modules: Iterable[nn.Module]) -> None:
    """Has FSDP2 put its shards back into the modules, should the last forward pass have left whole parameters there.

    FSDP2 knows which are in place by a flag of its own: whole parameters that stayed over a restore would be old ones.
    """
    if fsdp := sys.modules.get("torch.distributed.fsdp"):
        for module in modules:
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()


def _set_gradient(tensor: torch.Tensor, value: torch.Tensor | None) -> None:
    """Fills the gradient that is there, or makes one.

    A gradient that the probe let go is not kept alive for its address: that would double what gradients cost, and a
    loop that sets gradients to None does not depend on where they are.
    """
    if value is None:
        if tensor.grad is not None:
            tensor.grad = None
    elif tensor.grad is None or kind(values(tensor.grad)) != kind(value):
        tensor.grad = _distributed_as(tensor, value.to(tensor.device, copy=True))
    else:
        values(tensor.grad).copy_(value)


def _distributed_as(tensor: torch.Tensor, shard: torch.Tensor) -> torch.Tensor:
    """The shard as a distributed tensor if `tensor` is one: gradients lie as their parameters do."""
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is None or not isinstance(tensor, distributed.DTensor):
        return shard
    mesh, placements = tensor.device_mesh, tensor.placements
    gradient: torch.Tensor = distributed.DTensor.from_local(
        shard, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
    return gradient


def _load_in_place(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimizer's state into the containers it has: snapshots know it by them."""
    table, groups = optimizer.state, optimizer.param_groups
    optimizer.load_state_dict(state)
    loaded, loaded_groups = dict(optimizer.state), list(optimizer.param_groups)
    table.clear()
    table.update(loaded)
    for group, loaded_group in zip(groups, loaded_groups, strict=True):
        group.clear()
        group.update(loaded_group)
    optimizer.state, optimizer.param_groups = table, groups
