"""How values of a class are copied in a batch, and the marks that stand for them in a pickled one."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import operator
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any


class CopyKind(enum.Enum):
    """How values of a class are copied."""

    VALUE = enum.auto()
    """Copies by pickle, or part by part."""
    REFERENCE = enum.auto()
    """Not at all: what can't change, has an identity, or is no part of a batch."""
    TENSOR = enum.auto()
    ARRAY = enum.auto()
    PLACE = enum.auto()
    """One of our own marks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A mark in the stream, for one of the leaves."""

    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """Carries a value through the stream as it is."""

    value: Any


VALUE_TYPES = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset)
"""Classes of most values, known beforehand."""

_FIXED_TYPES = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    weakref.ref,
    enum.Enum,
    Reference,
)
"""Classes of values that can't change, or that have an identity."""

_FIXED_NAMES = {
    "torch": ("nn.Module", "optim.Optimizer", "dtype", "device", "layout", "memory_format", "Size"),
    "torch.utils.data": ("Dataset", "DataLoader", "Sampler"),
    "numpy": ("dtype", "number", "bool_", "character", "datetime64", "timedelta64"),
    "jax": ("Array",),
    "tensorflow": ("Tensor", "DType"),
}
"""More of these, by the module that must have been imported if there are any."""


def classified(cls: type) -> CopyKind:
    """How values of a class are copied, by the frameworks that have been imported by now."""
    if cls is Place:
        return CopyKind.PLACE
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch and issubclass(cls, torch.Tensor):
        return CopyKind.TENSOR
    if numpy and issubclass(cls, numpy.ndarray):
        return CopyKind.ARRAY
    return CopyKind.REFERENCE if issubclass(cls, (*_FIXED_TYPES, *_fixed_types())) else CopyKind.VALUE


def _fixed_types() -> Iterator[type]:
    for module, names in _FIXED_NAMES.items():
        if found := sys.modules.get(module):
            for name in names:
                with contextlib.suppress(AttributeError):  # Of a version that has no such class, or half imported.
                    yield operator.attrgetter(name)(found)
