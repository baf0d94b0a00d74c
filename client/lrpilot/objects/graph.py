"""The mutable objects that can be reached from some roots, and how each is put back.

Training code keeps its state anywhere: in the tables of a module, in plain attributes, in a dict of an optimizer inside
another optimizer, in a generator of its own. So nothing is looked up by name. From the roots every reference is
followed, and of every mutable object on the way the contents are kept: of a dict its items, of an object its class and
attributes, of a random generator its state. Putting them back fills the same objects again, so what was shared is
shared, what was added is gone, and what was removed is back. Values of tensors are the business of
`lrpilot.backends.torch.rollback.snapshot`.

Not followed: classes, functions and what they close over, and the machinery of frameworks (`_MACHINERY`), which is
about the run and not about its state. Iterators and objects of C extensions can't be put back.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import operator
import re
import sys
import types
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, IterableDataset

from lrpilot.objects.kinds import (
    MODULE_TABLES,
    STUCK,
    TABLES,
    Kind,
    attributes_kind,
    contents_kind,
    has_attributes,
    instance_table,
    slot_table,
    tensor_kind,
)
from lrpilot.objects.tensor_form import has_values

_ATOMS = {*map(id, (
    type(None), bool, int, float, complex, str, bytes, range, slice, type, enum.Enum, re.Pattern, uuid.UUID,
    types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType, types.EllipsisType,
    types.NotImplementedType, types.GenericAlias, types.UnionType, operator.attrgetter, operator.itemgetter,
    decimal.Decimal, fractions.Fraction, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
))}  # fmt: skip
"""Classes of what can't change, or is code. By identity: some ask to hash what is compared with them."""

_COMMON = {*map(id, (type(None), bool, int, float, str, types.FunctionType, types.BuiltinFunctionType))}
"""Classes of most of what there is, which is not worth a closer look."""

_MACHINERY = (
    "torch._C", "torch._dynamo", "torch._functorch", "torch._higher_order_ops", "torch._inductor", "torch._ops",
    "torch.autograd", "torch.cuda", "torch.distributed", "torch.fx", "torch.jit", "torch.library", "torch.monitor",
    "torch.multiprocessing", "torch.profiler", "torch.utils.data", "torch.utils.hooks", "torch.utils.tensorboard",
    "IPython", "accelerate", "aim", "clearml", "comet_ml", "composer.core", "composer.loggers", "composer.trainer",
    "datasets", "deepspeed", "dvclive", "google", "grpc", "h5py", "ignite.engine", "ipykernel", "ipywidgets", "jax",
    "jaxlib", "keras", "lightning", "lightning_fabric", "lightning_utilities", "lmdb", "loguru", "lrpilot",
    "matplotlib", "mlflow", "mmengine.hooks", "mmengine.logging", "mmengine.runner", "neptune", "optuna", "pandas",
    "polars", "psutil", "pyarrow", "pytorch_lightning", "ray", "requests", "rich", "sacred", "sqlalchemy", "structlog",
    "swanlab", "tensorboard", "tensorboardX", "tensorflow", "tokenizers", "tqdm", "trackio",
    "transformers.tokenization_utils_base", "transformers.trainer", "transformers.trainer_callback", "triton",
    "tuner_server", "urllib3", "visdom", "wandb", "zarr",
)  # fmt: skip
"""Packages whose objects carry a run, a service or a compiler: going back in them would break what they count on."""

_STDLIB = sys.stdlib_module_names - {
    "__main__", "abc", "argparse", "builtins", "collections", "contextlib", "dataclasses", "enum", "functools",
    "itertools", "numbers", "random", "types", "typing",
}  # fmt: skip
"""Modules of the standard library whose classes hold threads, files, locks and the like."""

_WRAPPERS = ("torch._dynamo", "torch.distributed", "torch.jit", "torch.nn.parallel")
"""Packages of modules that wrap a module: of these only the tables are followed."""

_HARMLESS_BASES = (Dataset, IterableDataset)
"""Classes of frameworks that have nothing of their own: a buffer of experience may be made from one."""

_STATEFUL = (nn.Module, torch.optim.Optimizer, torch.amp.GradScaler, LRScheduler)
"""Classes whose instances are followed whatever package they are from."""

_MODULE_OF = type.__dict__["__module__"]
"""How `type` itself finds a class's module."""

_Kinds = tuple[Kind, ...]
_CLOSED: _Kinds = ()
"""Nothing is followed: machinery and atoms."""
_OPAQUE: _Kinds = (STUCK,)

_KNOWN: dict[int, tuple[weakref.ref[type], _Kinds]] = {}
"""What was found out about a class, by its address. Some classes are made for a single object, and go with it."""

_FEW = 16
"""Elements of a container that are looked at one by one; of more it is seen first whether one is worth it."""


class ObjectGraph:
    """Tensors, and the objects that hold them or other state, each once, in the order in which they were found."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self.hollow: list[torch.Tensor] = []
        """Those that have no values now."""
        self.optimizers: list[torch.optim.Optimizer] = []
        """Optimizers, those inside others too."""
        self._objects: collections.defaultdict[Kind, list[Any]] = collections.defaultdict(list)
        self._seen: dict[int, Any] = {}
        self._references: list[tuple[Any, type, Kind, list[Any]]] = []
        """Each object with its class and, kind by kind, what it referred to, if any of that is followed."""

    def add(self, root: Any) -> None:
        """Follows all references from an object, whatever it is."""
        if id(root) in self._seen:
            return
        stack: list[Any] = []
        with torch._C.DisableTorchFunctionSubclass():
            self._visit(root, _kinds(type(root)) or _opened(type(root)), stack)
            while stack:
                value = stack.pop()
                if id(value) not in self._seen and (kinds := _kinds(type(value))):
                    self._visit(value, kinds, stack)

    def beyond(self, roots: Iterable[Any]) -> ObjectGraph:
        """What can be reached from other roots, and is not in this graph."""
        graph = ObjectGraph()
        graph._seen = dict(self._seen)
        for root in roots:
            graph.add(root)
        return graph

    @staticmethod
    def reaches(value: Any) -> bool:
        """Whether there is anything in an object to put back."""
        return not isinstance(value, type | types.ModuleType) and _opened(type(value)) not in (_CLOSED, _OPAQUE)

    def _visit(self, value: Any, kinds: _Kinds, stack: list[Any]) -> None:
        """Takes an object in, and puts what it refers to on the stack, the first one on top."""
        self._seen[id(value)] = value
        for kind in reversed(kinds):
            if kind.contents is not None:
                self._objects[kind].append(value)
            children = [*kind.children(value)]
            if len(children) > _FEW and {*map(id, map(type, children))} <= _COMMON:
                children.clear()  # none is followed
            self._references.append((value, type(value), kind, children))
            stack.extend([child for child in reversed(children) if id(type(child)) not in _COMMON])
        if kinds[0].of_tensors:
            (self.tensors if has_values(value) else self.hollow).append(value)
        elif issubclass(type(value), torch.optim.Optimizer):
            self.optimizers.append(value)

    def leads_as_before(self) -> bool:
        """Whether the same roots would lead to the same objects in the same order.

        It is quicker than following the references anew. What a reference leads to may be another number.
        """
        with torch._C.DisableTorchFunctionSubclass():
            for value, cls, kind, known in self._references:
                if type(value) is not cls:
                    return False
                children = [*kind.children(value)]
                if len(children) == len(known) and (not known or all(map(operator.is_, children, known))):
                    continue
                if not _lead_alike(children, known):
                    return False
        return True

    def contents(self) -> list[Any]:
        """What the objects hold now: references, and states of generators and arrays."""
        with torch._C.DisableTorchFunctionSubclass():
            return [[*map(kind.contents, each)] for kind, each in self._objects.items() if kind.contents is not None]

    def refill(self, contents: Iterable[Any]) -> None:
        """Puts contents back into the objects; they stay fit for the next time."""
        with torch._C.DisableTorchFunctionSubclass():
            for (kind, values), of_kind in zip(self._objects.items(), contents, strict=True):
                refill = kind.refill
                for value, content in zip(values, of_kind, strict=True):
                    refill(value, content)


def _lead_alike(children: Iterable[Any], known: Iterable[Any]) -> bool:
    """Whether references lead to the same objects, but for those that are followed no further."""
    led, lead = ([each for each in some if id(type(each)) not in _COMMON] for some in (known, children))
    return len(lead) == len(led) and all(map(operator.is_, lead, led))


def is_followed(value: Any) -> bool:
    """Whether references to such an object lead to what is put back."""
    return bool(_kinds(type(value)))


def is_stuck(value: Any) -> bool:
    """Whether an object may change and can't be put back: an iterator, or one of a C extension."""
    return _kinds(type(value)) is _OPAQUE


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object holds by name, as far as it is followed."""
    own = instance_table(value)
    if MODULE_TABLES in _kinds(type(value)):
        return {name: own[name] for name in TABLES if name in own}
    return own | slot_table(value)


def _kinds(cls: type) -> _Kinds:
    """What an object of a class consists of, as far as it is followed."""
    known = _KNOWN.get(id(cls))
    if known is None or known[0]() is not cls:
        key = id(cls)
        known = _KNOWN[key] = weakref.ref(cls, lambda _: _KNOWN.pop(key, None)), _classified(cls)
    return known[1]


def _classified(cls: type) -> _Kinds:
    if not _ATOMS.isdisjoint(map(id, cls.__mro__)):
        return _CLOSED
    if issubclass(cls, torch.Tensor):
        return (tensor_kind(cls),)
    if issubclass(cls, _STATEFUL) or contents_kind(cls) is not None or not _is_machinery(cls):
        return _opened(cls)
    return _CLOSED


def _opened(cls: type) -> _Kinds:
    """What an object consists of, whatever package it is from."""
    if issubclass(cls, torch.Tensor):
        return (tensor_kind(cls),)
    if issubclass(cls, nn.Module) and _is_from(cls, _WRAPPERS):
        return (MODULE_TABLES,)
    contents = contents_kind(cls)
    of_items = () if contents is None else (contents,)
    if has_attributes(cls) and cls is not OrderedDict:  # they could have some, and have none
        return (*of_items, attributes_kind(cls))
    return of_items or (_OPAQUE if _may_change(cls) else _CLOSED)


def _is_machinery(cls: type) -> bool:
    """Whether a class, or one that it is made from, is a framework's, or of a thread, a file or a lock."""
    return _is_from(cls, _MACHINERY) or any(_module(base).partition(".")[0] in _STDLIB for base in cls.__mro__)


def _is_from(cls: type, packages: tuple[str, ...]) -> bool:
    modules = [_module(base) + "." for base in cls.__mro__ if not any(base is each for each in _HARMLESS_BASES)]
    return any(module.startswith(package + ".") for module in modules for package in packages)


def _module(cls: type) -> str:
    """The name of a class's module; a class may say anything, or nothing."""
    try:
        name = _MODULE_OF.__get__(cls)
    except AttributeError:
        name = ""
    return name if isinstance(name, str) else ""


def _may_change(cls: type) -> bool:
    """Whether an object without attributes may all the same have a state: an iterator, or one of a C extension."""
    is_bare = cls.__basicsize__ <= object.__basicsize__ and not cls.__itemsize__
    is_iterator = any("__next__" in vars(base) for base in cls.__mro__)
    return is_iterator or not (is_bare or _module(cls).startswith(("builtins", "torch", "numpy")))
