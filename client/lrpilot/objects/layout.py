"""What an instance of a class consists of, and how another one is built of the same parts.

This goes around what a class defines for itself (`__new__`, `__init__`, `__setattr__`, `__getattr__`, `__setitem__`):
a copy of a frozen object is not refused, and one of an object that answers to every name is not confused.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

Found = TypeVar("Found")

_HEAP_TYPE = 1 << 9
"""CPython's flag of classes that were defined by a class statement, and of some that were not."""

_VALUES: dict[type, Callable[[Any], Any]] = {
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    int: int.__int__,
    float: float.__float__,
}
"""The builtin value that an instance of an immutable class is, by its base."""

_ITEMS: dict[type, Callable[[Any], Any]] = {
    dict: lambda value: dict(dict.items(value)),
    list: lambda value: list(list.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    object: lambda value: None,
}
"""The items that an instance of a mutable class holds, by its base."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The parts of a class's instances."""

    base: type | None
    """The builtin whose memory they have; None: they have some that is not known."""
    members: tuple[types.MemberDescriptorType, ...]
    """Their slots."""
    is_plain: bool
    """Whether the class leaves to Python how it is pickled and made."""

    @classmethod
    def of(cls, kind: type) -> Layout:
        """The layout of a class."""
        ours = [each for each in kind.__mro__ if each.__flags__ & _HEAP_TYPE]
        base = next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)
        members = slots_of(kind)
        hooks = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
        is_plain = all(getattr(kind, hook, None) is getattr(object, hook, None) for hook in hooks)
        makes_itself = any("__new__" in vars(each) for each in ours) and base not in _VALUES
        return cls(base if _is_known(kind, base, len(members)) else None, members, is_plain and not makes_itself)

    def reduced(self, value: Any) -> tuple[Any, ...] | None:
        """How to build such an instance, as `object.__reduce__` says it; None if it has nothing that could change."""
        attributes = instance_dict(value)
        members = [(member, member.__get__(value)) for member in self.members if _is_set(member, value)]
        if self.base in _VALUES:
            made = (_new_value, (type(value), self.base, _VALUES[self.base](value)))
            return (*made, (object, None, attributes, members), None, None, _fill) if attributes or members else made
        assert self.base is not None
        if self.base is object and not attributes and not members:
            return None
        state = (self.base, _ITEMS[self.base](value), attributes, members)
        return _new, (type(value), self.base), state, None, None, _fill


def remembered(find: Callable[[type], Found]) -> Callable[[type], Found]:
    """A function that finds something out about a class, and remembers it; a decorator."""
    return functools.lru_cache(maxsize=4096)(find)


def instance_dict(value: Any) -> dict[str, Any] | None:
    """The attributes of an object outside slots; None if it can have none."""
    try:
        attributes: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes


def slots_of(kind: type) -> tuple[types.MemberDescriptorType, ...]:
    """The slots of a class and of those that it derives from."""
    ours = [each for each in kind.__mro__ if each.__flags__ & _HEAP_TYPE]
    return tuple(
        member for each in ours for member in vars(each).values() if isinstance(member, types.MemberDescriptorType)
    )


def set_state(value: Any, state: Any, setter: Callable[[Any, Any], object] | None) -> None:
    """Gives a new object the state that its class's own `__reduce__` returned, as unpickling does."""
    if setter is not None:
        setter(value, state)
    elif hasattr(type(value), "__setstate__"):
        type(value).__setstate__(value, state)
    elif state is not None:
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        for name, each in (slots or {}).items():
            object.__setattr__(value, name, each)
        if attributes:
            object.__getattribute__(value, "__dict__").update(attributes)


def _is_known(kind: type, base: Any, n_members: int) -> bool:
    if base not in _VALUES and base not in _ITEMS:
        return False
    if base in _ITEMS and base is not kind:
        try:
            base.__new__(kind)
        except TypeError:  # There is more memory than Python's own, and its owner makes it.
            return False
    pointer = tuple.__itemsize__
    return bool(kind.__basicsize__ <= base.__basicsize__ + pointer * (n_members + 2))  # and __dict__, __weakref__


def _is_set(member: types.MemberDescriptorType, value: Any) -> bool:
    try:
        member.__get__(value)
    except AttributeError:
        return False
    return True


def _new(kind: type, base: Any) -> Any:
    return base.__new__(kind)


def _new_value(kind: type, base: Any, value: Any) -> Any:
    return base.__new__(kind, value)


def _fill(value: Any, state: tuple[type, Any, dict[str, Any] | None, list[tuple[Any, Any]]]) -> None:
    base, items, attributes, members = state
    if base is dict:
        for key, item in items.items():
            dict.__setitem__(value, key, item)
    elif base is list:
        list.extend(value, items)
    elif base is set:
        set.update(value, items)
    if attributes:
        object.__getattribute__(value, "__dict__").update(attributes)
    for member, each in members:
        member.__set__(value, each)
