"""Names for what an object graph holds: `model.body.0.weight`, `optimizer.state[2]['exp_avg']`."""

from __future__ import annotations

import collections
import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lrpilot.backends.torch.rollback.memory import values
from lrpilot.objects.graph import attributes_of, is_followed, is_stuck
from lrpilot.rng import to_plain

_REFERENCES = {"Generator": ("bit_generator",), "method": ("__self__",), "partial": ("func", "args", "keywords")}
"""What objects of NumPy and Python refer to besides their attributes, by class."""
_TABLES = ("_parameters", "_buffers", "_modules")
"""Tables of a module, whose items have the module's own names."""


def paths(roots: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything that can be reached from the roots, by name: objects once, plain values wherever they are."""
    queue = collections.deque(roots.items())
    seen: dict[int, Any] = {}
    first = set(map(id, roots.values()))
    while queue:
        path, value = queue.popleft()
        plain = not (is_followed(value) or id(value) in first)
        if not plain:
            if id(value) in seen:
                continue
            seen[id(value)] = value
            queue.extend(_children(path, value))
        yield path, value


def fingerprints(roots: Mapping[str, Any]) -> dict[str, Any]:
    """What every tensor, array, generator and plain value is now, by name: bits, hashed where there are many."""
    return {path: _fingerprint(value) for path, value in paths(roots)}


def stuck_paths(roots: Mapping[str, Any]) -> list[str]:
    """What may change and can't be put back, with its class."""
    return [f"{path} ({type(value).__name__})" for path, value in paths(roots) if is_stuck(value)]


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for i, (key, child) in enumerate(dict.items(value)):
            yield f"{path}[{key!r}]" if isinstance(key, str | int) else f"{path}[{i}]", child
    elif isinstance(value, list | tuple | collections.deque | set | frozenset):
        for i, child in enumerate(value):
            yield f"{path}[{i}]", child
    for name in _REFERENCES.get(type(value).__name__, ()):
        if hasattr(value, name):
            yield f"{path}.{name}", getattr(value, name)
    if not isinstance(value, torch.Generator):
        attributes = dict(attributes_of(value))
        for table in _TABLES if isinstance(value, nn.Module) else ():
            for name, child in (attributes.pop(table, None) or {}).items():
                yield f"{path}.{name}", child
        for name, child in attributes.items():
            yield f"{path}.{name}", child


def _fingerprint(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _of_tensor(value)
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):  # a NumPy array, or scalar
        return str(value.dtype), value.shape, hashlib.blake2b(value.tobytes()).digest()
    if isinstance(value, torch.Generator):
        return _of_tensor(value.get_state())
    if isinstance(value, bool | int | str | bytes | type(None)):
        return value
    if isinstance(value, float | complex):
        return repr(value)
    if (state := _generator_state(value)) is not None:
        return hashlib.blake2b(repr(to_plain(state)).encode()).digest()
    return type(value).__qualname__


def _generator_state(value: Any) -> Any:
    """What a generator of Python's or NumPy's will draw from; None: the object is none."""
    if isinstance(value, random.Random):
        return value.getstate()
    numpy = sys.modules.get("numpy.random")
    if numpy and isinstance(value, numpy.RandomState):
        return value.get_state(legacy=False)
    return value.state if numpy and isinstance(value, numpy.BitGenerator) else None


def _of_tensor(tensor: torch.Tensor) -> Any:
    """Form and bits; gradients are no state, since the next backward pass makes them anew or adds to them."""
    if is_lazy(tensor) or tensor.is_meta:
        return type(tensor).__name__
    data = values(tensor.detach())
    if data.layout is not torch.strided:
        data = data.to_dense()
    digest = hashlib.blake2b(data.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).digest()
    return str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, digest
