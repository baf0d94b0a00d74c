"""The hooks by which an optimizer's calls are seen, before and after."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch


class Watcher(Protocol):
    """What is told of updates."""

    def open(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer was called."""

    def see(self, optimizer: torch.optim.Optimizer) -> None:
        """Its gradients are there."""

    def see_compiled(self) -> None:
        """An update is being traced, or what was traced is made."""

    def close(self, optimizer: torch.optim.Optimizer) -> None:
        """The update is made."""


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


def register(
    ids: dict[tuple[str, int], int], moment: str, optimizer: torch.optim.Optimizer, hook: Callable[..., Any]
) -> Any:
    """Registers a hook under the id that it had before.

    Every registration has an id of its own, for which a compiled step would be compiled anew.

    Args:
        ids: of hooks that were registered before, by moment and optimizer; a new one is added.
        moment: "before" or "after".
        optimizer: whose calls are hooked.
        hook: to be called.

    Returns:
        What removes it.

    Raises:
        AttributeError: the optimizer was not made as optimizers are.
    """
    handle: Any = (
        optimizer.register_step_pre_hook(hook) if moment == "before" else optimizer.register_step_post_hook(hook)
    )
    hooks = handle.hooks_dict_ref()
    registered = hooks.pop(handle.id)
    handle.id = ids.setdefault((moment, id(optimizer)), handle.id)
    hooks[handle.id] = registered
    return handle
