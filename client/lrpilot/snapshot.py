"""In-run rollback: what a probe may change, remembered in memory and put back in place.

What is remembered is a graph of tensors and of the dicts and lists that hold them: the parameter and buffer tables of
modules, the state and the parameter groups of optimizers, the state dicts of registered objects. Of a tensor its values
are kept, of a container its contents. Restoring puts the same objects back where they were and fills them, so that
addresses survive (a compiled step is not compiled again, a CUDA graph stays valid), state that a probe made is gone,
and state that it removed is back.

Not remembered: plain Python attributes of modules and optimizers, generator objects, anything outside the process.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

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
    snapshot lives on the devices of the tensors that it copies and holds every parameter, a frozen one too: an encoder
    that follows another by a moving average is frozen, and still changes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        registered: Mapping[str, Stateful],
    ) -> None:
        """Remembers what to copy; copies nothing yet.

        Args:
            model: its parameters, buffers (non-persistent ones too), extra state and modes.
            optimizers: their states, parameter groups, and parameters, also those that are not the model's.
            registered: further objects to roll back, by name.
        """
        self._arguments = (model, optimizers, registered)
        objects = registered.values()
        self._roots = [model, *(o for o in objects if isinstance(o, nn.Module))]
        self._optimizers = tuple(optimizers)
        self._stateful = [o for o in objects if not isinstance(o, nn.Module)]
        self._taken: _Taken | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are held; 0 before the first `take`."""
        return sum(map(_nbytes, self._taken.all_copies)) if self._taken else 0

    @torch.no_grad()
    def take(self) -> None:
        """Remembers the present, in place of what was remembered before.

        If memory runs out, what was remembered before is still there.
        """
        random_state = RandomState.capture()
        modules = list(self._modules())
        extra = [module for module in modules if _has_extra_state(module)]
        loads = [*(m.set_extra_state for m in extra), *(o.load_state_dict for o in self._stateful)]
        states = [*(m.get_extra_state() for m in extra), *(o.state_dict() for o in self._stateful)]

        graph = _Graph()
        for root in self._roots:
            graph.add([*root.parameters(), *root.buffers()])
        graph.add([table for m in modules for table in (m._parameters, m._buffers)])
        graph.add([part for o in self._optimizers for part in (o.state, o.param_groups)])
        graph.add(states)

        holders = [t for t in graph.tensors if t.is_leaf and t.grad is not None]
        originals = [*map(_dense, graph.tensors), *(t.grad for t in holders if t.grad is not None)]
        copies = _like(originals, self._taken.all_copies if self._taken else ())
        self._taken = _Taken(
            graph=graph,
            contents=graph.contents(),
            copies=copies[: len(graph.tensors)],
            gradients=dict(zip(holders, copies[len(graph.tensors) :], strict=True)),
            loads=loads,
            states=states,
            training=[(module, module.training) for module in modules],
            random_state=random_state,
        )
        _copy(originals, copies)

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
        taken.graph.refill(taken.contents)
        _copy(taken.copies, map(_dense, taken.graph.tensors))
        for tensor in taken.graph.tensors:
            if tensor.is_leaf:
                _set_gradient(tensor, taken.gradients.get(tensor))
        for load, state in zip(taken.loads, taken.states, strict=True):
            load(state)
        for module, training in taken.training:
            module.training = training
        taken.random_state.restore()

    def state_dict(self) -> dict[str, Any] | None:
        """What is remembered, for a checkpoint: state dicts of everything, copied; None if nothing is.

        The present makes way for a moment, and is back bit for bit. Non-persistent buffers are not in state dicts.
        """
        if self._taken is None:
            return None
        present = Snapshot(*self._arguments)
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
        present = Snapshot(*self._arguments)
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

    def _modules(self) -> Iterator[nn.Module]:
        seen: set[nn.Module] = set()
        for root in self._roots:
            for module in root.modules():
                if module not in seen:
                    seen.add(module)
                    yield module


@dataclasses.dataclass(frozen=True, slots=True)
class _Taken:
    """One moment."""

    graph: _Graph
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


class _Graph:
    """The tensors and the mutable containers that can be reached from some roots, each once."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self._containers: list[dict[Any, Any] | list[Any]] = []
        # For copy.deepcopy: what is known stands for itself, so that a deep copy of a value shares it.
        self._itself: dict[int, Any] = {}

    def add(self, value: Any) -> None:
        if id(value) in self._itself:
            return
        if isinstance(value, torch.Tensor):
            self._itself[id(value)] = value
            self.tensors.append(value)
        elif isinstance(value, dict | list):
            self._itself[id(value)] = value
            self._containers.append(value)
            for child in value.values() if isinstance(value, dict) else value:
                self.add(child)
        elif isinstance(value, tuple):
            for child in value:
                self.add(child)

    def contents(self) -> list[dict[Any, Any] | list[Any]]:
        """What the containers hold: tensors and containers themselves, deep copies of anything else."""
        memo = self._itself.copy()
        return [_deep_copied(container, memo) for container in self._containers]

    def refill(self, contents: list[dict[Any, Any] | list[Any]]) -> None:
        """Puts contents back into the containers; they stay fit for the next time."""
        memo = self._itself.copy()
        for container, content in zip(self._containers, contents, strict=True):
            fresh = _deep_copied(content, memo)
            container.clear()
            if isinstance(container, dict):
                container.update(fresh)
            else:
                container.extend(fresh)


def _deep_copied(container: dict[Any, Any] | list[Any], memo: dict[int, Any]) -> dict[Any, Any] | list[Any]:
    if isinstance(container, dict):
        return {key: copy.deepcopy(value, memo) for key, value in container.items()}
    return [copy.deepcopy(value, memo) for value in container]


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _like(tensors: Iterable[torch.Tensor], old: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Memory for the values of `tensors`, out of `old` as far as it fits."""
    pool: dict[Hashable, list[torch.Tensor]] = collections.defaultdict(list)
    for tensor in old:
        pool[_form(tensor)].append(tensor)
    memory = []
    for tensor in tensors:
        fitting = pool[_form(tensor)]
        memory.append(fitting.pop() if fitting else torch.empty_like(tensor))
    return memory


def _form(tensor: torch.Tensor) -> Hashable:
    return tensor.device, tensor.dtype, tensor.layout, tensor.shape


def _copy(sources: Iterable[torch.Tensor], targets: Iterable[torch.Tensor]) -> None:
    """Copies values, in as few kernels as there are kinds of tensors."""
    kinds: dict[Hashable, tuple[list[torch.Tensor], list[torch.Tensor]]]
    kinds = collections.defaultdict(lambda: ([], []))
    for source, target in zip(sources, targets, strict=True):
        of_kind = kinds[target.device, target.dtype, target.layout]
        of_kind[0].append(source)
        of_kind[1].append(target)
    for of_sources, of_targets in kinds.values():
        torch._foreach_copy_(of_targets, of_sources)


def _set_gradient(tensor: torch.Tensor, value: torch.Tensor | None) -> None:
    """Fills the gradient that is there, or makes one.

    A gradient that the probe let go is not kept alive for its address: that would double what gradients cost, and a
    loop that sets gradients to None does not depend on where they are.
    """
    if value is None:
        if tensor.grad is not None:
            tensor.grad = None
    elif tensor.grad is None or _form(_dense(tensor.grad)) != _form(value):
        tensor.grad = value.clone()
    else:
        tensor.grad.copy_(value)


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or what was expanded to it: elements that share memory can't be written apart."""
    if tensor.layout is not torch.strided or 0 not in tensor.stride():
        return tensor
    strided = zip(tensor.shape, tensor.stride(), strict=True)
    size = [1 if n > 1 and step == 0 else n for n, step in strided]
    return tensor.as_strided(size, tensor.stride(), tensor.storage_offset())


def _nbytes(tensor: torch.Tensor) -> int:
    if tensor.layout is torch.strided:
        return tensor.nbytes
    return _nbytes(tensor.coalesce().values()) + _nbytes(tensor.coalesce().indices())


def _load_in_place(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimizer's state into the containers it has: snapshots know it by them."""
    table, groups = optimizer.state, optimizer.param_groups
    optimizer.load_state_dict(state)
    loaded, loaded_groups = dict(optimizer.state), list(optimizer.param_groups)
    table.clear()
    table.update(loaded)
    for group, values in zip(groups, loaded_groups, strict=True):
        group.clear()
        group.update(values)
    optimizer.state, optimizer.param_groups = table, groups
