"""The parts of a loader that may have a state: samplers, the data set, transforms, and the generators they draw from.

They are found by following attributes, closures and small containers. What holds data or is a position itself (large
containers, tensors, iterators, processes) is not looked into, nor is anything beyond a certain number of parts.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import gc
import itertools
import multiprocessing.process
import sys
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lrpilot.objects.layout import instance_dict, remembered, slots_of
from lrpilot.objects.own_generators import is_generator, source_of

_MOST_PARTS = 200
_MOST_DEPTH = 8
_MOST_CHILDREN = 32
"""The most elements of a container that may be a part of a loader; one with more is data."""

_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_SKIPPED = (type, types.ModuleType, threading.Thread, concurrent.futures.Executor, multiprocessing.process.BaseProcess)
_CONTAINERS = (list, tuple, dict, collections.deque)
_CHAINS = (zip, map, filter, enumerate, itertools.cycle, itertools.chain, itertools.islice, itertools.starmap)
"""Builtin iterators around others."""
_LIBRARIES = ("torch", "numpy", "collections", "functools", "typing", "abc", "random", "threading")
"""Modules whose functions draw from no generator of a user's module."""
_FOREIGN = ("accelerate.state", "logging", "lrpilot")
"""Modules whose objects belong to the run and not to a loader that refers to them."""
_TRAINS = ("fit", "backward", "training_step", "train_step")
"""Methods of models, trainers and engines, which are no part of a loader either."""
_UNSTATED = ("_parameters", "_buffers", "_iterator")
"""Attributes of modules that are weights, and of a DataLoader that is a position."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What was found."""

    owners: Mapping[str, object]
    """Objects with attributes, by their path from the loader, which is "" itself."""
    generators: Mapping[str, Any]
    """Random number generators, by path: each once."""
    has_thread: bool
    """Whether one of them holds a thread."""

    @classmethod
    def of(cls, loader: object) -> Parts:
        """Looks for the parts of a loader."""
        owners: dict[str, object] = {}
        generators: dict[str, Any] = {}
        has_thread = False
        seen: dict[int, object] = {}  # The objects too: an id is good as long as its object lives.
        ahead = collections.deque([("", loader, 0)])
        while ahead and len(seen) < _MOST_PARTS:
            path, value, depth = ahead.popleft()
            value = source_of(value) if is_generator(value) else value
            if id(value) in seen:
                continue
            seen[id(value)] = value
            if is_generator(value):
                generators[path] = value
                continue
            if _has_attributes(value):
                owners[path] = value
            in_chain = isinstance(value, _CHAINS) or _is_torch_iterator(value)
            for name, child in _children(value, is_root=depth == 0) if depth < _MOST_DEPTH else ():
                has_thread |= isinstance(child, threading.Thread | concurrent.futures.Executor)
                if not _is_data(child) and (in_chain or not _is_iterator(child)):
                    ahead.append((f"{path}.{name}" if path else name, child, depth + 1))
        return cls(owners, generators, has_thread)


def attributes_of(owner: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of a part, slots included."""
    yield from (each for each in (instance_dict(owner) or {}).items() if each[0] not in _UNSTATED)
    for member in _members(type(owner)):
        try:
            yield member.__name__, member.__get__(owner)
        except AttributeError:
            continue


def set_attribute(owner: Any, name: str, value: Any) -> None:
    """Sets an attribute, whatever the class makes of that."""
    for member in _members(type(owner)):
        if member.__name__ == name:
            member.__set__(owner, value)
            return
    attributes = instance_dict(owner)
    if attributes is not None:
        attributes[name] = value


@remembered
def _members(kind: type) -> tuple[types.MemberDescriptorType, ...]:
    return slots_of(kind) if any("__slots__" in vars(each) for each in kind.__mro__[:-1]) else ()


def _has_attributes(value: Any) -> bool:
    """Whether a part's attributes are its state; an iterator's are a position, which nobody moves."""
    if isinstance(value, types.FunctionType | types.MethodType | types.GeneratorType | functools.partial):
        return False
    return not _is_torch_iterator(value) and (instance_dict(value) is not None or bool(_members(type(value))))


def _is_iterator(value: object) -> bool:
    """Whether a value is nothing but a position; a loader may be its own iterator, and has attributes then."""
    return hasattr(type(value), "__next__") and (instance_dict(value) is None or _is_torch_iterator(value))


def _is_torch_iterator(value: object) -> bool:
    return hasattr(type(value), "__next__") and type(value).__module__.startswith(("torch.utils.data", "torchdata"))


def _is_data(value: object) -> bool:
    """Whether a value is no part, nor leads to one."""
    if isinstance(value, _SCALARS + _SKIPPED) or _is_foreign(value):
        return True
    if isinstance(value, _CONTAINERS):
        return len(value) > _MOST_CHILDREN
    return hasattr(type(value), "__array__") or hasattr(type(value), "__dlpack__")


def _is_foreign(value: Any) -> bool:
    """Whether a value is a model, an optimizer, a trainer or the like."""
    kind = type(value)
    if any(hasattr(kind, method) for method in _TRAINS):
        return True
    if kind.__module__.startswith(_FOREIGN):
        return True
    if (torch := sys.modules.get("torch")) is None:
        return False
    if isinstance(value, torch.nn.Module):
        return next(value.parameters(), None) is not None
    return isinstance(value, torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler)


def _children(value: Any, *, is_root: bool) -> Iterator[tuple[str, Any]]:
    """What a part refers to, by name."""
    if isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield from (("__self__", value.__self__), ("__func__", value.__func__))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.GeneratorType):
        yield from (value.gi_frame.f_locals if value.gi_frame else {}).items()
        yield from _global_generators(value.gi_code, value.gi_frame.f_globals if value.gi_frame else {})
    elif isinstance(value, _CHAINS):
        yield from ((str(i), child) for i, child in enumerate(gc.get_referents(value)))
    elif isinstance(value, dict) and type(value) is dict:
        yield from (() if is_root else ((str(key), child) for key, child in value.items()))
    elif isinstance(value, _CONTAINERS) and instance_dict(value) is None:
        yield from (() if is_root else ((str(i), child) for i, child in enumerate(value)))
    else:
        yield from attributes_of(value)
        yield from _of_class(type(value))


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # Not filled yet.
            continue
    yield from ((str(i), default) for i, default in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    if not _is_of_a_library(function.__module__):
        yield from _global_generators(function.__code__, function.__globals__)


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    """Generators in class attributes, and those that its methods get from closures and modules."""
    for each in kind.__mro__:
        if each is object or _is_of_a_library(each.__module__):
            continue
        for name, value in vars(each).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if is_generator(value):
                yield name, value
            elif isinstance(function, types.FunctionType):
                # Not the classes and functions around it, which a method's closure holds too.
                found = _of_function(function)
                yield from ((f"{name}:{inner}", child) for inner, child in found if is_generator(child))


def _global_generators(code: types.CodeType, variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in code.co_names:
        if is_generator(value := variables.get(name)):
            yield f"global:{name}", value
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_generators(constant, variables)


def _is_of_a_library(module: str | None) -> bool:
    return module is not None and module.split(".")[0] in _LIBRARIES


def threads_since(earlier: Iterable[threading.Thread]) -> list[threading.Thread]:
    """Threads that were started since, without those by which a DataLoader moves its batches, and without progress."""
    known = set(earlier)
    harmless = ("QueueFeederThread", "_pin_memory_loop", "TMonitor")
    return [
        thread
        for thread in threading.enumerate()
        if thread not in known and not any(name in f"{type(thread).__name__} {thread.name}" for name in harmless)
    ]
