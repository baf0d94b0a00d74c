"""States of optimizers that keep their places: as they are loaded, and as the steps that made them are rolled back."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.optim import SGD, Optimizer

from lrpilot.errors import ConfigError


def load_in_place(optimizers: Sequence[Optimizer], states: Sequence[dict[str, Any]]) -> None:
    """Loads optimizers' states into the containers that they have and share: snapshots know them by these.

    Groups beyond those of the states were added later, and are left out.

    Raises:
        ConfigError: a state has more groups than its optimizer.
    """
    containers = [(optimizer.state, optimizer.param_groups) for optimizer in optimizers]
    for state, (_, groups) in zip(states, containers, strict=True):
        saved = len(state.get("param_groups", groups))
        if saved > len(groups):
            raise ConfigError(
                f"state: the checkpoint's optimizer has {saved} parameter groups, this one {len(groups)}; add those "
                "that were added in mid-run before loading"
            )
        del groups[saved:]
    # Those inside of others first: the state that a wrapper has of them is whole (TRAC's has tables by parameter).
    for optimizer, state, (table, groups) in reversed([*zip(optimizers, states, containers, strict=True)]):
        optimizer.load_state_dict(state)
        loaded, loaded_groups = dict(optimizer.state), list(optimizer.param_groups)
        table.clear()
        table.update(loaded)
        for group, loaded_group in zip(groups, loaded_groups, strict=True):
            if group is not loaded_group:
                group.clear()
                group.update(loaded_group)
        for each, (own_table, own_groups) in zip(optimizers, containers, strict=True):
            own = {"state": own_table, "param_groups": own_groups}
            vars(each).update({name: own[name] for name in own if name in vars(each)})  # else a property: another's


class MadeStates:
    """The states that optimizers have at some time, so that those which a rollback takes away can be made once.

    A compiled step holds on to the very tensors that it was compiled with, and is compiled anew for others; a CUDA
    graph writes to where they were. So what such a step has made since a snapshot stays, with the values that the
    optimizer gives to a new state. That is what its first step would find, and computes the same, to the last bit. The
    state of an optimizer that is not PyTorch's own goes: nobody knows how it begins.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        """Looks at what there is."""
        self._states = [
            (optimizer, dict(optimizer.state), [group.get(_CAPTURABLE) for group in optimizer.param_groups])
            for optimizer in optimizers
            if type(optimizer).__module__.startswith("torch.optim")
        ]

    @torch.inference_mode(False)
    @torch.no_grad()
    def renew(self) -> None:
        """Gives back, as new, what has gone and must keep its place."""
        with torch._C.DisableTorchFunctionSubclass():
            for each in self._states:
                _renew(*each)


_CAPTURABLE = "capturable"
"""PyTorch's name in a group for steps that a graph may hold. A compiler sets it, on a GPU, before the first state."""
_COMPILERS_MARK = "_dynamo_static_input_type"
"""What a compiler leaves on tensors that a compiled step holds on to."""


def _renew(optimizer: Optimizer, states: dict[Any, Any], capturable: Sequence[bool | None]) -> None:
    """Gives an optimizer those of its former states back that it has no more, as new."""
    for group, may_be_captured in zip(optimizer.param_groups, capturable, strict=False):
        gone = [p for p in group["params"] if p in states and p not in optimizer.state]
        kept = [p for p in gone if may_be_captured or any(map(_is_marked, states[p].values()))]
        if not kept or _follows_lr(optimizer, group, kept[0], may_be_captured):
            continue
        for parameter in kept:
            if _make_new(optimizer, group, parameter, states[parameter], may_be_captured):
                optimizer.state[parameter] = states[parameter]
        if may_be_captured is not None:
            group[_CAPTURABLE] = may_be_captured


def _make_new(
    optimizer: Optimizer, group: dict[str, Any], parameter: Any, state: dict[str, Any], may_be_captured: bool | None
) -> bool:
    """Gives a state the values of a new one, in place; false if it can't be."""
    new = _new_state(optimizer, group, parameter, may_be_captured)
    if type(optimizer) is SGD and not new and not group["dampening"]:
        # The first step copies the gradient. Minus zero is what a gradient can be added to without a trace.
        new = {name: torch.full_like(value, -0.0) for name, value in state.items() if value is not None}
    if new is None or new.keys() != state.keys() or not all(_are_alike(new[name], state[name]) for name in new):
        return False
    for name, value in new.items():
        if isinstance(value, torch.Tensor):
            state[name].copy_(value)
        else:
            state[name] = value
    return True


def _follows_lr(optimizer: Optimizer, group: dict[str, Any], parameter: Any, may_be_captured: bool | None) -> bool:
    """Whether a new state depends on the LR, and so on the step that makes it; waits for the device."""
    new = _new_state(optimizer, group, parameter, may_be_captured)
    tensors = [value for value in (new or {}).values() if isinstance(value, torch.Tensor)]
    return any(bool(tensor.isnan().any()) for tensor in tensors)


def _new_state(
    optimizer: Any, group: dict[str, Any], parameter: Any, may_be_captured: bool | None
) -> dict[str, Any] | None:
    """A state as the optimizer's next step would make it, but for an LR that is no number; None: it can't be had."""
    init = getattr(optimizer, "_init_group", None)
    if init is None:
        return None
    alone = {**group, "params": [parameter], "lr": math.nan}
    if may_be_captured is not None:
        alone[_CAPTURABLE] = may_be_captured
    lists = [[] for _ in list(inspect.signature(init).parameters)[1:]]  # type: ignore[var-annotated]  # of anything
    with _some_gradient(parameter):
        init(alone, *lists)
    state: dict[str, Any] = optimizer.state.pop(parameter, {})
    return state


@contextlib.contextmanager
def _some_gradient(parameter: Any) -> Iterator[None]:
    """A parameter has a gradient inside: without one it gets no state."""
    if parameter.grad is not None:
        yield
        return
    parameter.grad = torch.zeros_like(parameter)
    try:
        yield
    finally:
        parameter.grad = None


def _is_marked(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and hasattr(value, _COMPILERS_MARK)


def _are_alike(new: Any, old: Any) -> bool:
    if not isinstance(new, torch.Tensor) or not isinstance(old, torch.Tensor):
        return type(new) is type(old)
    return new.shape == old.shape and new.dtype == old.dtype and new.device == old.device
