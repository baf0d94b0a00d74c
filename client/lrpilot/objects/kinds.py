"""How objects of each class are followed, what is kept of them, and how they are filled again.

Nothing here asks an object itself: what a class makes of `__iter__`, `__len__`, `__eq__`, `__getattr__` or `__class__`
is gone around, since a proxy, a mock or a lazy list would answer anything.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import functools
import operator
import random
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.utils import parametrize

from lrpilot.objects.layout import slots_of

TABLES = ("_parameters", "_buffers", "_modules", "training")
"""All that is followed of a module that wraps another one."""

_COMPILER = "_dynamo"
"""Attributes of tensors that begin so are the compiler's notes: without them it would compile again."""

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""Tables of a tensor's hooks."""

_EMPTY: tuple[tuple[()], tuple[()]] = ((), ())
"""Keys and values of an empty table."""

_NO_HOOKS = (None, None)

_UNSET = object()
"""Stands in place of what an empty slot holds."""

_STRINGS = {id(str)}
_OrderedDict = collections.OrderedDict
_Table = dict[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How objects of a kind are followed, kept and filled again."""

    children: Callable[[Any], Iterable[Any]]
    """What an object refers to."""
    contents: Callable[[Any], Any] | None = None
    """What is to be remembered of it: references, or a copy of values. None: nothing."""
    refill: Callable[[Any, Any], object] = lambda *_: None
    """Puts contents back into it; they stay fit for the next time."""
    of_tensors: bool = False


def contents_kind(cls: type) -> Kind | None:
    """The kind of a container, an array or a generator of random numbers; None: the class is none of these."""
    if issubclass(cls, random.SystemRandom):
        return None
    known = dict(_CONTENTS)
    if numpy := sys.modules.get("numpy"):
        known |= {
            numpy.memmap: Kind(_nothing),  # a file, and perhaps larger than memory
            numpy.ndarray: Kind(_array_children, _array_contents, _refill_array),
            numpy.random.Generator: Kind(lambda value: (value.bit_generator,)),
            numpy.random.BitGenerator: Kind(
                _nothing, lambda value: value.state, lambda value, state: setattr(value, "state", state)
            ),
            numpy.random.RandomState: Kind(
                _nothing, lambda value: value.get_state(legacy=False), lambda value, state: value.set_state(state)
            ),
        }
    return next((kind for base, kind in known.items() if issubclass(cls, base)), None)


def attributes_kind(cls: type) -> Kind:
    """The attributes of a class's instances, in their tables and in slots."""
    if _is_of_one_object(cls):
        return Kind(
            _ATTRIBUTES.children, lambda value: (_attribute_contents(value), _properties(cls)), _refill_parametrized
        )
    members = members_of(cls)
    if not members:
        return _ATTRIBUTES

    def slots(value: Any) -> list[Any]:
        return [_slot(member, value) for member in members]

    def refill(value: Any, content: tuple[Any, list[Any]]) -> None:
        _refill_attributes(value, content[0])
        for member, old, new in zip(members, content[1], slots(value), strict=True):
            if old is _UNSET and new is not _UNSET:
                member.__delete__(value)
            elif old is not new:
                member.__set__(value, old)

    return Kind(
        lambda value: [*instance_table(value).values(), *slots(value)],
        lambda value: (_attribute_contents(value), slots(value)),
        refill,
    )


def has_attributes(cls: type) -> bool:
    """Whether a class's instances have any."""
    return bool(cls.__dictoffset__) or bool(members_of(cls))


def members_of(cls: type) -> list[types.MemberDescriptorType]:
    """The slots that a class statement has made."""
    return [member for member in slots_of(cls) if "__slots__" in vars(member.__objclass__)]


def instance_table(value: Any) -> _Table:
    """The attributes of an object outside slots; empty if it can have none."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except Exception:  # a class may have made it a property
        return {}
    return own if isinstance(own, dict) else {}


def slot_table(value: Any) -> dict[str, Any]:
    """The attributes of an object in slots."""
    found = {member.__name__: _slot(member, value) for member in members_of(type(value))}
    return {name: item for name, item in found.items() if item is not _UNSET}


def _slot(member: types.MemberDescriptorType, value: Any) -> Any:
    try:
        return member.__get__(value)
    except AttributeError:
        return _UNSET


def _nothing(_: Any) -> Iterable[Any]:
    return ()


def _dict_children(value: _Table) -> Iterable[Any]:
    if not dict.__len__(value):
        return ()
    if {*map(id, map(type, dict.keys(value)))} == _STRINGS:
        return dict.values(value)
    return [*dict.keys(value), *dict.values(value)]


def _copied(value: _Table) -> _Table:
    return dict.copy(value) if type(value) is dict else dict(dict.items(value))


def _refill_dict(value: _Table, content: _Table) -> None:
    if not content and not dict.__len__(value):
        return
    keys = dict.keys(value)
    if len(keys) == len(content) and all(map(operator.is_, keys, content)):
        for key, old, new in zip(content, content.values(), [*dict.values(value)], strict=True):
            if old is not new:  # a compiler's guards look at when a dict was written to
                dict.__setitem__(value, key, old)
        return
    dict.clear(value)
    dict.update(value, content)


def _ordered_contents(value: _OrderedDict[Any, Any]) -> tuple[Iterable[Any], Iterable[Any]]:
    """Keys and values in the order that `move_to_end` has made, which a dict's own methods do not know."""
    if not dict.__len__(value):
        return _EMPTY
    return [*_OrderedDict.keys(value)], [*_OrderedDict.values(value)]


def _refill_ordered(value: _OrderedDict[Any, Any], content: tuple[list[Any], list[Any]]) -> None:
    keys, items = content
    if not keys and not dict.__len__(value):
        return
    if len(keys) == dict.__len__(value) and all(map(operator.is_, keys, _OrderedDict.keys(value))):
        for key, old, new in zip(keys, items, [*_OrderedDict.values(value)], strict=True):
            if old is not new:
                _OrderedDict.__setitem__(value, key, old)
        return
    _OrderedDict.clear(value)
    for key, old in zip(keys, items, strict=True):
        _OrderedDict.__setitem__(value, key, old)


def _refill_list(value: list[Any], content: list[Any]) -> None:
    if list.__len__(value) != len(content) or not all(map(operator.is_, list.__iter__(value), content)):
        list.__setitem__(value, slice(None), content)


def _refill_deque(value: collections.deque[Any], content: list[Any]) -> None:
    collections.deque.clear(value)
    collections.deque.extend(value, content)


def _refill_set(value: set[Any], content: set[Any]) -> None:
    if set.__ne__(value, content):  # its order depends on its history
        set.clear(value)
        set.update(value, content)


def _refill_bytes(value: Any, content: Any) -> None:
    value[:] = content


def _array_children(value: Any) -> Iterable[Any]:
    return value.flat if value.dtype.hasobject else ()


def _array_contents(value: Any) -> Any:
    """A copy of an array's own elements, without what a subclass makes of them; None: they can't be written to."""
    return value.view(_ndarray()).copy(order="K") if value.flags.writeable else None


def _refill_array(value: Any, content: Any) -> None:
    if content is None:
        return
    if value.shape != content.shape:
        _ndarray().resize(value, content.shape, refcheck=False)
    value.view(_ndarray())[...] = content


def _ndarray() -> Any:
    return sys.modules["numpy"].ndarray


def _attribute_contents(value: Any) -> tuple[type, _Table]:
    return type(value), _copied(instance_table(value))


def _refill_attributes(value: Any, content: tuple[type, _Table]) -> None:
    cls, attributes = content
    if type(value) is not cls:  # a parametrisation changes it, and a lazy module
        object.__setattr__(value, "__class__", cls)
    _refill_dict(instance_table(value), attributes)


def _is_of_one_object(cls: type) -> bool:
    """Whether PyTorch has made a class for a single module, whose parametrised tensors are properties of the class."""
    return getattr(vars(cls).get("__getstate__"), "__module__", None) == parametrize.__name__


def _properties(cls: type) -> dict[str, Any]:
    return {name: item for name, item in vars(cls).items() if isinstance(item, property)}


def _refill_parametrized(value: Any, content: tuple[tuple[type, _Table], dict[str, Any]]) -> None:
    attributes, properties = content
    cls = attributes[0]
    for name in _properties(cls).keys() - properties.keys():
        delattr(cls, name)
    for name, item in properties.items():
        if vars(cls).get(name) is not item:
            setattr(cls, name, item)
    _refill_attributes(value, attributes)


def _module_tables(value: Any) -> list[Any]:
    own = instance_table(value)
    return [own[name] for name in TABLES if name in own]


def tensor_kind(cls: type) -> Kind:
    """All of a class's tensors but their form and values."""
    if not members_of(cls) or hasattr(cls, "to_local"):  # the shard in a slot of a distributed tensor is its values
        return _TENSOR
    attributes = attributes_kind(cls)
    return dataclasses.replace(_TENSOR, children=lambda value: [*attributes.children(value), *_hooks(value)])


def _hooks(value: torch.Tensor) -> tuple[Any, Any]:
    return value._backward_hooks, value._post_accumulate_grad_hooks


def _is_bare(value: torch.Tensor) -> bool:
    """Whether there is nothing to a tensor but its form and values, as with nearly all."""
    return value._backward_hooks is None and value._post_accumulate_grad_hooks is None and not value.__dict__


def _tensor_children(value: torch.Tensor) -> Iterable[Any]:
    return () if _is_bare(value) else [*value.__dict__.values(), *_hooks(value)]


def _tensor_contents(value: torch.Tensor) -> tuple[dict[str, Any], tuple[Any, Any]] | None:
    if _is_bare(value):
        return None
    return {key: item for key, item in value.__dict__.items() if not key.startswith(_COMPILER)}, _hooks(value)


def _refill_tensor(value: torch.Tensor, content: tuple[dict[str, Any], tuple[Any, Any]] | None) -> None:
    if content is None and _is_bare(value):
        return
    own = value.__dict__
    attributes, hooks = content or ({}, _NO_HOOKS)
    noted = {key: item for key, item in own.items() if key.startswith(_COMPILER)}
    _refill_dict(own, attributes | noted)
    for name, old, new in zip(_HOOKS, hooks, _hooks(value), strict=True):
        if old is None and new is not None:
            new.clear()  # to take the table itself away would take hooks of PyTorch's own with it
        elif old is not new:
            setattr(value, name, old)


_CONTENTS: dict[type, Kind] = {
    _OrderedDict: Kind(_dict_children, _ordered_contents, _refill_ordered),
    dict: Kind(_dict_children, _copied, _refill_dict),
    list: Kind(list.__iter__, lambda value: [*list.__iter__(value)], _refill_list),
    tuple: Kind(tuple.__iter__),
    set: Kind(set.__iter__, lambda value: {*set.__iter__(value)}, _refill_set),
    frozenset: Kind(frozenset.__iter__),
    collections.deque: Kind(
        collections.deque.__iter__, lambda value: [*collections.deque.__iter__(value)], _refill_deque
    ),
    bytearray: Kind(_nothing, lambda value: value[:], _refill_bytes),
    array.array: Kind(_nothing, lambda value: value[:], _refill_bytes),
    functools.partial: Kind(lambda value: (value.func, value.args, value.keywords)),
    types.MethodType: Kind(lambda value: (value.__self__,)),
    torch.Generator: Kind(_nothing, lambda value: value.get_state(), lambda value, state: value.set_state(state)),
    random.Random: Kind(_nothing, lambda value: value.getstate(), lambda value, state: value.setstate(state)),
}
"""Kinds by base; the first that fits is an object's."""

_ATTRIBUTES = Kind(
    lambda value: instance_table(value).values(),
    _attribute_contents,
    _refill_attributes,
)

MODULE_TABLES = Kind(_module_tables)
"""Only the tables of a module that wraps another one."""

_TENSOR = Kind(_tensor_children, _tensor_contents, _refill_tensor, of_tensors=True)

STUCK = Kind(_nothing)
"""What may change and can't be put back."""
