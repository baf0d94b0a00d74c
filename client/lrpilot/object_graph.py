"""The mutable objects that can be reached from some roots, and how each is put back.

Training code keeps its state anywhere: in the tables of a module, in plain attributes, in a dict of an optimizer inside
another optimizer, in a generator of its own. So nothing is looked up by name. From the roots every reference is
followed, and of every mutable object on the way the contents are kept: of a dict its items, of an object its class and
attributes, of a random generator its state. Putting them back fills the same objects again, so what was shared is
shared, what was added is gone, and what was removed is back. Values of tensors are `lrpilot.snapshot`'s business.

Not followed: classes, functions and what they close over, and the machinery of frameworks (`_MACHINERY`), which is
about the run and not about its state. Iterators and objects of C extensions can't be put back: they are `unreachable`.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import operator
import random
import re
import sys
import types
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

_ATOMS: tuple[type, ...] = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type, enum.Enum, re.Pattern, uuid.UUID,
    types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType, types.EllipsisType,
    types.NotImplementedType, types.GenericAlias, types.UnionType, operator.attrgetter, operator.itemgetter,
    decimal.Decimal, fractions.Fraction, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip
"""What can't change, or is code."""

_COMMON = {type(None), bool, int, float, str, types.FunctionType, types.BuiltinFunctionType}
"""Most of what there is: not worth a closer look."""

_MACHINERY = (
    "torch._C", "torch._dynamo", "torch._functorch", "torch._higher_order_ops", "torch._inductor", "torch._ops",
    "torch.autograd", "torch.cuda", "torch.distributed", "torch.fx", "torch.jit", "torch.library", "torch.monitor",
    "torch.multiprocessing", "torch.profiler", "torch.utils.data", "torch.utils.hooks", "torch.utils.tensorboard",
    "IPython", "accelerate", "aim", "clearml", "comet_ml", "datasets", "deepspeed", "google", "grpc", "ipykernel",
    "ipywidgets", "jax", "jaxlib", "keras", "lightning", "lightning_fabric", "lightning_utilities", "lrpilot",
    "matplotlib", "mlflow", "neptune", "pandas", "polars", "psutil", "pyarrow", "pytorch_lightning", "ray", "rich",
    "tensorboard", "tensorboardX", "tensorflow", "tokenizers", "tqdm", "transformers.tokenization_utils_base",
    "transformers.trainer", "transformers.trainer_callback", "triton", "tuner_server", "wandb",
)  # fmt: skip
"""Packages whose objects carry a run, a service or a compiler: going back in them would break what they count on."""

_STDLIB = sys.stdlib_module_names - {
    "__main__", "abc", "builtins", "collections", "contextlib", "dataclasses", "enum", "functools", "itertools",
    "numbers", "random", "types", "typing",
}  # fmt: skip
"""Modules of the standard library whose classes hold threads, files, locks and the like."""

_WRAPPERS = ("torch._dynamo", "torch.distributed", "torch.jit", "torch.nn.parallel")
"""Packages of modules that wrap a module: of these only the tables are followed."""

_TABLES = ("_parameters", "_buffers", "_modules", "training")

_NAMES: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()
_KINDS: weakref.WeakKeyDictionary[type, tuple[_Kind, ...]] = weakref.WeakKeyDictionary()
"""What was found out about a class; some are made for a single object."""

_COMPILER = "_dynamo"
"""Attributes of tensors that begin so are the compiler's notes: without them it would compile again."""


class ObjectGraph:
    """Tensors, and the objects that hold them or other state, each once, in the order in which they were found."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self.uninitialized: list[torch.Tensor] = []
        """Parameters of lazy modules, which have no values yet."""
        self.unreachable: list[Any] = []
        """Objects that may change and can't be put back."""
        self.optimizers: list[torch.optim.Optimizer] = []
        """Of all kinds, those inside others too."""
        self._objects: list[tuple[_Kind, Any]] = []
        self._seen: dict[int, Any] = {}

    def add(self, root: Any) -> None:
        """Follows all references from an object, whatever it is."""
        stack = [root]
        if _kinds(type(root)) is _CLOSED:
            stack = [*self._visited(root, _opened(type(root)))]
        while stack:
            value = stack.pop()
            kinds = _kinds(type(value))
            if kinds and id(value) not in self._seen:
                stack.extend(self._visited(value, kinds))

    @staticmethod
    def reaches(value: Any) -> bool:
        """Whether there is anything in an object to put back."""
        return _opened(type(value)) not in (_CLOSED, _OPAQUE)

    def _visited(self, value: Any, kinds: tuple[_Kind, ...]) -> list[Any]:
        """Takes an object in; what it refers to, the first one last."""
        self._seen[id(value)] = value
        children: list[Any] = []
        for kind in kinds:
            if kind.mutable:
                self._objects.append((kind, value))
            children.extend(child for child in kind.children(value) if type(child) not in _COMMON)
        if isinstance(value, torch.Tensor):
            (self.uninitialized if is_lazy(value) else self.tensors).append(value)
        elif isinstance(value, torch.optim.Optimizer):
            self.optimizers.append(value)
        elif kinds is _OPAQUE:
            self.unreachable.append(value)
        children.reverse()
        return children

    def contents(self) -> list[Any]:
        """What the objects hold now: references, and states of generators and arrays."""
        return [kind.contents(value) for kind, value in self._objects]

    def refill(self, contents: Iterable[Any]) -> None:
        """Puts contents back into the objects; they stay fit for the next time."""
        for (kind, value), content in zip(self._objects, contents, strict=True):
            kind.refill(value, content)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """How objects of a kind are followed, kept and filled again."""

    children: Callable[[Any], Iterable[Any]]
    contents: Callable[[Any], Any] = lambda _: None
    refill: Callable[[Any, Any], object] = lambda *_: None
    mutable: bool = True


def _nothing(_: Any) -> Iterable[Any]:
    return ()


def _dict_children(value: dict[Any, Any]) -> Iterator[Any]:
    for key, child in dict.items(value):
        if type(key) is not str:
            yield key
        yield child


def _dict_contents(value: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    return [*dict.keys(value)], [*dict.values(value)]


def _refill_dict(value: dict[Any, Any], content: tuple[list[Any], list[Any]]) -> None:
    keys, values = content
    if len(keys) == len(value) and all(map(operator.is_, keys, dict.keys(value))):
        for key, old, new in zip(keys, values, [*dict.values(value)], strict=True):
            if old is not new:  # a compiler's guards look at when a dict was written to
                _set_item(value, key, old)
        return
    clear = collections.OrderedDict.clear if isinstance(value, collections.OrderedDict) else dict.clear
    clear(value)
    for key, old in zip(keys, values, strict=True):
        _set_item(value, key, old)


def _set_item(value: dict[Any, Any], key: Any, item: Any) -> None:
    """Past what a subclass makes of it."""
    if isinstance(value, collections.OrderedDict):
        collections.OrderedDict.__setitem__(value, key, item)
    else:
        dict.__setitem__(value, key, item)


def _refill_list(value: list[Any], content: list[Any]) -> None:
    if len(value) != len(content) or not all(map(operator.is_, value, content)):
        list.__setitem__(value, slice(None), content)


def _refill_deque(value: collections.deque[Any], content: list[Any]) -> None:
    value.clear()
    value.extend(content)


def _refill_set(value: set[Any], content: set[Any]) -> None:
    if value != content:  # its order depends on its history
        set.clear(value)
        set.update(value, content)


def _refill_slice(value: Any, content: Any) -> None:
    value[:] = content


def _refill_array(value: Any, content: Any) -> None:
    if value.flags.writeable:
        value[...] = content


def _slot_names(cls: type) -> tuple[str, ...]:
    if cls in _NAMES:
        return _NAMES[cls]
    names: list[str] = []
    for base in cls.__mro__:
        own = base.__dict__.get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    _NAMES[cls] = own_names = tuple(name for name in names if name not in ("__dict__", "__weakref__"))
    return own_names


def _slots(value: Any) -> list[str]:
    return [name for name in _slot_names(type(value)) if hasattr(value, name)]


def _attributes(value: Any) -> dict[str, Any]:
    """An object's own; those in slots are copied."""
    try:
        own: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    return own


def _object_children(value: Any) -> Iterator[Any]:
    yield from _attributes(value).values()
    for name in _slots(value):
        yield getattr(value, name)


def _object_contents(value: Any) -> tuple[type, tuple[list[Any], list[Any]], dict[str, Any]]:
    return type(value), _dict_contents(_attributes(value)), {name: getattr(value, name) for name in _slots(value)}


def _refill_object(value: Any, content: tuple[type, tuple[list[Any], list[Any]], dict[str, Any]]) -> None:
    kind, attributes, slots = content
    if type(value) is not kind:  # a parametrisation changes it, and a lazy module
        object.__setattr__(value, "__class__", kind)
    _refill_dict(_attributes(value), attributes)
    for name in _slots(value):
        if name not in slots:
            object.__delattr__(value, name)
    for name, item in slots.items():
        object.__setattr__(value, name, item)


def _table_children(value: Any) -> Iterator[Any]:
    attributes = _attributes(value)
    return (attributes[name] for name in _TABLES if name in attributes)


def _tensor_contents(value: torch.Tensor) -> tuple[list[Any], list[Any]]:
    noted = {key: item for key, item in value.__dict__.items() if not key.startswith(_COMPILER)}
    return _dict_contents(noted)


def _refill_tensor(value: torch.Tensor, content: tuple[list[Any], list[Any]]) -> None:
    own = value.__dict__
    kept = {key: item for key, item in own.items() if key.startswith(_COMPILER)}
    if own or content[0]:
        _refill_dict(own, content)
        own.update(kept)


def _python_state(value: random.Random) -> Any:
    return value.getstate()


_PARTIAL = _Kind(lambda value: (value.func, *value.args, *value.keywords.values()), mutable=False)
_METHOD = _Kind(lambda value: (value.__self__,), mutable=False)
_TUPLE = _Kind(iter, mutable=False)
_DICT = _Kind(_dict_children, _dict_contents, _refill_dict)
_LIST = _Kind(iter, list, _refill_list)
_DEQUE = _Kind(iter, list, _refill_deque)
_SET = _Kind(iter, set, _refill_set)
_BYTES = _Kind(_nothing, lambda value: value[:], _refill_slice)
_OBJECT = _Kind(_object_children, _object_contents, _refill_object)
_TABLED = _Kind(_table_children, mutable=False)
_TENSOR = _Kind(lambda value: _attributes(value).values(), _tensor_contents, _refill_tensor)
_TORCH_GENERATOR = _Kind(_nothing, lambda value: value.get_state(), lambda value, state: value.set_state(state))
_PYTHON_GENERATOR = _Kind(_nothing, _python_state, lambda value, state: value.setstate(state))
_NUMPY_ARRAY = _Kind(
    lambda value: value.flat if value.dtype.hasobject else (), lambda value: value.copy(order="K"), _refill_array
)
_NUMPY_GENERATOR = _Kind(lambda value: (value.bit_generator,), mutable=False)
_NUMPY_BITS = _Kind(_nothing, lambda value: value.state, lambda value, state: setattr(value, "state", state))
_NUMPY_LEGACY = _Kind(
    _nothing, lambda value: value.get_state(legacy=False), lambda value, state: value.set_state(state)
)

_CLOSED: tuple[_Kind, ...] = ()
"""Of machinery and atoms."""
_OPAQUE = (_Kind(_nothing, mutable=False),)
"""Of what may change and can't be put back."""


def _kinds(cls: type) -> tuple[_Kind, ...]:
    """What an object of a class consists of, as far as it is followed."""
    kinds = _KINDS.get(cls)
    if kinds is None:
        kinds = _KINDS[cls] = _classified(cls)
    return kinds


def _classified(cls: type) -> tuple[_Kind, ...]:
    if issubclass(cls, _ATOMS):
        return _CLOSED
    if issubclass(cls, torch.Tensor):
        return (_TENSOR,)
    if issubclass(cls, nn.Module | torch.optim.Optimizer):
        return _opened(cls)
    contents = _contents_of(cls)
    if contents or not _is_machinery(cls):
        return (*contents, _OBJECT) if contents and _has_attributes(cls) else contents or _opened(cls)
    return _CLOSED


def _opened(cls: type) -> tuple[_Kind, ...]:
    """The attributes of an object, whatever package it is from."""
    if issubclass(cls, nn.Module) and _is_from(cls, _WRAPPERS):
        return (_TABLED,)
    if _has_attributes(cls):
        return (_OBJECT,)
    return _contents_of(cls) or (_OPAQUE if _may_change(cls) else _CLOSED)


def _contents_of(cls: type) -> tuple[_Kind, ...]:
    """The kind of a container, an array or a generator of random numbers."""
    kinds: dict[type, _Kind] = {
        dict: _DICT, list: _LIST, tuple: _TUPLE, frozenset: _TUPLE, set: _SET, collections.deque: _DEQUE,
        bytearray: _BYTES, array.array: _BYTES, functools.partial: _PARTIAL, types.MethodType: _METHOD,
        torch.Generator: _TORCH_GENERATOR, random.Random: _PYTHON_GENERATOR,
    }  # fmt: skip
    if numpy := sys.modules.get("numpy"):
        kinds |= {
            numpy.ndarray: _NUMPY_ARRAY,
            numpy.random.Generator: _NUMPY_GENERATOR,
            numpy.random.BitGenerator: _NUMPY_BITS,
            numpy.random.RandomState: _NUMPY_LEGACY,
        }
    if issubclass(cls, random.SystemRandom):
        return ()
    return tuple(kind for known, kind in kinds.items() if issubclass(cls, known))


def _has_attributes(cls: type) -> bool:
    return bool(cls.__dictoffset__) or bool(_slot_names(cls))


def _is_machinery(cls: type) -> bool:
    """Whether a class, or one that it is made from, is a framework's, or of a thread, a file or a lock."""
    return _is_from(cls, _MACHINERY) or any(base.__module__.partition(".")[0] in _STDLIB for base in cls.__mro__)


def _is_from(cls: type, packages: tuple[str, ...]) -> bool:
    return any(
        base.__module__ == package or base.__module__.startswith(package + ".")
        for base in cls.__mro__
        for package in packages
    )


def _may_change(cls: type) -> bool:
    """Whether an object without attributes may all the same have a state: an iterator, or one of a C extension."""
    return hasattr(cls, "__next__") or not cls.__module__.startswith(("builtins", "torch", "numpy"))


def is_followed(value: Any) -> bool:
    """Whether references to such an object lead to what is put back."""
    return bool(_kinds(type(value)))


def is_stuck(value: Any) -> bool:
    """Whether an object may change and can't be put back: an iterator, or one of a C extension."""
    return _kinds(type(value)) is _OPAQUE


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object holds by name, as far as it is followed."""
    own = _attributes(value)
    if _TABLED in _kinds(type(value)):
        return {name: own[name] for name in _TABLES if name in own}
    return own | {name: getattr(value, name) for name in _slots(value)}
