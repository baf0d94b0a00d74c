"""The hooks by which an optimizer's calls are seen, before and after, and the outputs of a module."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn


class Watcher(Protocol):
    """What is told of updates and outputs."""

    def open(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer was called."""

    def see(self, optimizer: torch.optim.Optimizer) -> None:
        """Its gradients are there."""

    def see_compiled(self) -> None:
        """An update is being traced, or what was traced is made."""

    def close(self, optimizer: torch.optim.Optimizer) -> None:
        """The update is made."""

    def see_output(self, output: object) -> None:
        """A module that trains has given something."""


def hook_before(watcher: weakref.ref[Any]) -> Callable[..., Any]:
    """What is called before a `step`, of which a `Watcher` is told as long as there is one."""

    def before(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Sees the gradients; those of a `step` with a closure when the closure has made them."""
        target: Watcher | None = watcher()
        if target is None:
            return None
        if torch.compiler.is_compiling():
            target.see_compiled()
            return None
        target.open(optimizer)
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            target.see(optimizer)
            return None

        def seen(*inner: Any, **named: Any) -> Any:
            loss = closure(*inner, **named)
            target.see(optimizer)
            return loss

        return ((args[0], seen, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": seen})

    return before


def hook_after(watcher: weakref.ref[Any]) -> Callable[..., None]:
    """What is called after a `step`."""

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        target: Watcher | None = watcher()
        if target is not None and not torch.compiler.is_compiling():
            target.close(optimizer)

    return after


class OutputHook:
    """What is called after a module's forward calls.

    A copy of the module, or what is loaded of a saved one, has a hook that does nothing: nobody asks for its outputs.
    """

    def __init__(self, watcher: weakref.ref[Any] | None = None) -> None:
        """Tells a `Watcher` as long as there is one; None: there is none."""
        self._watcher = watcher

    def __call__(self, module: nn.Module, arguments: object, output: object) -> None:
        """Leaves the output as it is; a call that can't train is not told of. In a compiled module it is no code."""
        if torch.compiler.is_compiling() or not (module.training and torch.is_grad_enabled()):
            return
        target: Watcher | None = self._watcher() if self._watcher is not None else None
        if target is not None:
            target.see_output(output)

    def __reduce__(self) -> tuple[type[OutputHook], tuple[()]]:
        """What `copy` and `pickle` make of it."""
        return OutputHook, ()


_REGISTRATION = {
    "before": "register_step_pre_hook",
    "after": "register_step_post_hook",
    "output": "register_forward_hook",
}
"""The methods that register hooks, by moment."""


def register(ids: dict[tuple[str, int], int], moment: str, target: Any, hook: Callable[..., Any]) -> Any:
    """Registers a hook under the id that it had before.

    Every registration has an id of its own, for which a compiled step or module would be compiled anew.

    Args:
        ids: of hooks that were registered before, by moment and what is hooked; a new one is added.
        moment: "before" or "after" the call of an optimizer, or the "output" of a module.
        target: the optimizer or the module.
        hook: to be called.

    Returns:
        What removes it.

    Raises:
        AttributeError: the optimizer was not made as optimizers are.
    """
    handle: Any = getattr(target, _REGISTRATION[moment])(hook)
    hooks = handle.hooks_dict_ref()
    registered = hooks.pop(handle.id)
    handle.id = ids.setdefault((moment, id(target)), handle.id)
    hooks[handle.id] = registered
    return handle
