"""What a tuner is given in PyTorch, and that no other tuner has it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from lrpilot.arguments import shown
from lrpilot.errors import ConfigError


class Owner(Protocol):
    """A tuner, as far as its optimizers are concerned."""

    @property
    def finished(self) -> bool:
        """Whether its budget is spent."""

    @property
    def closed(self) -> bool:
        """Whether its tuning was ended by `close`."""


_OWNERS: weakref.WeakKeyDictionary[Any, weakref.ref[Owner]] = weakref.WeakKeyDictionary()
"""The last tuner of each optimizer."""


def checked(model: Any, optimizer: Any) -> list[torch.optim.Optimizer]:
    """The optimizers, one or several, as a list.

    Raises:
        ConfigError: an argument is not what it should be, or an open tuner tunes one of the optimizers.
    """
    if isinstance(model, torch.optim.Optimizer) or isinstance(optimizer, nn.Module):
        raise ConfigError("model, optimizer: they are swapped; the order is Tuner(model, optimizer)")
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ConfigError(f"model: {what} is none; give the torch.nn.Module that is trained")
    several = isinstance(optimizer, Iterable) and not hasattr(optimizer, "param_groups")
    optimizers = list(optimizer) if several else [optimizer]
    remedy = "give a torch.optim.Optimizer, or a list of those that are stepped together"
    if not optimizers:
        raise ConfigError(f"optimizer: a {type(optimizer).__name__} without any; {remedy}")
    if len({id(each) for each in optimizers}) < len(optimizers):
        raise ConfigError("optimizer: one of them is there twice; give each once")
    for each in optimizers:
        if hasattr(each, "get_last_lr") and hasattr(each, "optimizer"):
            raise ConfigError(
                f"optimizer: a {type(each).__name__} is a scheduler; give its optimizer, and leave the scheduler out: "
                "the tuner sets the LR"
            )
        if not (isinstance(getattr(each, "param_groups", None), list) and hasattr(each, "state")):
            what = f"the class {each.__name__}" if isinstance(each, type) else f"a {type(each).__name__}"
            raise ConfigError(f"optimizer: {what} is none; {remedy}")
        if _is_tuned(each):
            raise ConfigError("optimizer: an open tuner tunes it already; close() that one first, or use `with`")
    return optimizers


def checked_register(register: Any) -> dict[str, Any]:
    """What else changes as the model trains, by name; None: nothing. Raises: ConfigError: it has no names."""
    if register is None:
        return {}
    if not isinstance(register, Mapping) or not all(isinstance(name, str) for name in register):
        raise ConfigError(f"register: {shown(register)}; give objects by name, as {{'scaler': scaler}}")
    return dict(register)


def checked_group(group: Any) -> Any:
    """The process group that was given; None: none was. Raises: ConfigError: it is none, or not this process's."""
    if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        remedy = "one of torch.distributed that this process is in, or leave it out for all processes"
        raise ConfigError(f"process_group: {shown(group)}; give {remedy}")
    return group


def checked_logits(model: nn.Module, logits: Any) -> tuple[nn.Module, ...]:
    """The modules that give logits, one or several, each once; None: there are none.

    Raises:
        ConfigError: something is no module of the model, or one that is never called.
    """
    if logits is None:
        return ()
    remedy = "give a module of the model, such as model.head, or a list of some"
    several = isinstance(logits, Iterable) and not isinstance(logits, nn.Module | str)
    modules = list(logits) if several else [logits]
    if not modules:
        raise ConfigError(f"logits: an empty list names none; {remedy}, or leave it out")
    of_model = set(map(id, model.modules()))
    for each in modules:
        if not isinstance(each, nn.Module):
            raise ConfigError(f"logits: {each!r:.80} is no torch.nn.Module; {remedy}")
        if id(each) not in of_model:
            raise ConfigError(f"logits: a {type(each).__name__} is no part of the model; {remedy}")
        if isinstance(each, nn.ModuleList | nn.ModuleDict | torch.jit.ScriptModule):
            raise ConfigError(f"logits: a {type(each).__name__} has no calls that can be seen; {remedy}")
    return tuple(dict.fromkeys(modules))


def own(optimizers: Sequence[torch.optim.Optimizer], tuner: Owner) -> None:
    """Notes that these are a tuner's, until it is closed."""
    for each in optimizers:
        if _can_be_owned(each):
            _OWNERS[each] = weakref.ref(tuner)


def _is_tuned(optimizer: Any) -> bool:
    """Whether an open tuner has it. The frames of the error that may follow don't keep that one alive."""
    owner = _OWNERS.get(optimizer, lambda: None)() if _can_be_owned(optimizer) else None
    return owner is not None and not (owner.finished or owner.closed)


def _can_be_owned(optimizer: Any) -> bool:
    return type(optimizer).__hash__ is not None
