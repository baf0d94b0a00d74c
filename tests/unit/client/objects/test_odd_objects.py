"""Objects that answer anything, or nothing, are put back all the same."""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lrpilot.objects.graph import is_stuck

from tests.support.training.model_attributes import holding, snapshot_of


class Raising:
    """Answers nothing."""

    def __init__(self) -> None:
        object.__setattr__(self, "n", 0)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("iter")

    def __repr__(self) -> str:
        raise RuntimeError("repr")


class Ambiguous:
    """Equals everything, elementwise."""

    def __init__(self) -> None:
        self.n = 0

    def __eq__(self, other: object) -> Any:
        return np.array([True, False])

    __hash__ = None  # type: ignore[assignment]  # as NumPy's arrays


class Meta(type):
    """A metaclass whose classes can't be hashed or compared."""

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(cls) -> int:
        raise RuntimeError("hash")

    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class OfMeta(metaclass=Meta):
    """An object whose class has that metaclass."""

    def __init__(self) -> None:
        self.n = 0


class Bare(metaclass=Meta):
    """An object whose class has that metaclass, with nothing in it."""

    __slots__ = ()


class Slots:
    """With a slot that is empty, and an answer for every name."""

    __slots__ = ("n", "unset")

    def __init__(self) -> None:
        self.n = 0

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Nameless:
    """A class that says nothing of its module."""

    __module__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.n = 0


class Liar:
    """Says that it is a tensor."""

    def __init__(self) -> None:
        self.n = 0

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return torch.Tensor


class LazyList(list[Any]):
    """A list that is computed as it is read."""

    def __init__(self) -> None:
        super().__init__([1, 2])
        self.n = 0

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("iter")

    def __len__(self) -> int:
        raise RuntimeError("len")


class LazyDict(dict[str, Any]):
    """A dict that is computed as it is read, and can't be written to."""

    def __init__(self) -> None:
        super().__init__(a=1)
        self.n = 0

    def __refuse(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    __iter__ = __len__ = __getitem__ = __setitem__ = keys = values = items = update = clear = __refuse


class LazyOrdered(collections.OrderedDict[str, Any]):
    """The same, in order."""

    def __init__(self) -> None:
        super().__init__(a=1)
        self.n = 0

    def __setitem__(self, key: str, value: Any) -> None:
        if hasattr(self, "n"):
            raise RuntimeError("no")
        super().__setitem__(key, value)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Can't be set."""

    n: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlots:
    """Can't be set, in slots."""

    n: int = 0


class Proxy:
    """Stands for another object, attributes and all."""

    __slots__ = ("_target",)

    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "_target", target)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_target"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_target"), name, value)


ODD = [Raising, Ambiguous, OfMeta, Slots, Nameless, Liar, LazyList, LazyDict, LazyOrdered, Frozen, FrozenSlots]


@pytest.mark.parametrize("cls", ODD, ids=[cls.__dict__["__doc__"] for cls in ODD])
@pytest.mark.parametrize("where", ["attribute", "list", "dict", "tuple", "slot"])
def test_odd_objects_are_put_back(cls: Any, where: str) -> None:
    odd = cls()
    held: dict[str, Any] = {"attribute": odd, "list": [odd], "dict": {1: odd}, "tuple": ((odd,),), "slot": Slots()}
    if where == "slot":
        held["slot"].n = odd
    model = holding(held=held[where])
    snapshot = snapshot_of(model)
    write(odd, "n", 5)
    snapshot.restore()
    assert read(odd, "n") == 0
    if where == "list":
        assert len(model.held) == 1


def write(value: Any, name: str, item: Any) -> None:
    object.__setattr__(value, name, item)


def read(value: Any, name: str) -> Any:
    return object.__getattribute__(value, name)


def test_items_of_odd_containers_are_put_back() -> None:
    lists, dicts, ordered = LazyList(), LazyDict(), LazyOrdered()
    snapshot = snapshot_of(holding(lists=lists, dicts=dicts, ordered=ordered))
    for _ in range(2):
        list.append(lists, 3)
        dict.__setitem__(dicts, "b", 2)
        collections.OrderedDict.__setitem__(ordered, "b", 2)
        collections.OrderedDict.move_to_end(ordered, "a")
        snapshot.restore()
        assert list.__len__(lists) == 2
        assert [*dict.items(dicts)] == [("a", 1)]
        assert [*collections.OrderedDict.items(ordered)] == [("a", 1)]


def test_a_proxy_is_put_back_with_what_it_stands_for() -> None:
    target = types.SimpleNamespace(n=0)
    model = holding(proxy=Proxy(target), dead=weakref.proxy(Ambiguous()), alive=weakref.ref(Frozen()))
    snapshot = snapshot_of(model)
    model.proxy.n = 4
    snapshot.restore()
    assert target.n == 0


def test_properties_are_not_called_and_cycles_end() -> None:
    class Node:
        def __init__(self) -> None:
            self.me: Any = self
            self.all = [self, {"node": self}]
            self.n = 0

        @property
        def computed(self) -> Any:
            raise AssertionError("computed")

        @computed.setter
        def computed(self, value: Any) -> None:
            raise AssertionError("computed")

    class Colour(enum.Enum):
        RED = 1

    node = Node()
    snapshot = snapshot_of(holding(node=node, colour=Colour.RED, again=[node]))
    node.n, node.me = 3, None
    node.all.append(node)
    snapshot.restore()
    assert node.me is node
    assert (node.n, len(node.all)) == (0, 2)


def test_a_class_that_has_been_exchanged_is_put_back() -> None:
    class A:
        n = 1

    class B:
        n = 2

    model = holding(it=A())
    snapshot = snapshot_of(model)
    model.it.__class__ = B
    model.it.extra = 1
    snapshot.restore()
    assert type(model.it) is A
    assert vars(model.it) == {}


def test_what_holds_nothing_is_not_stuck() -> None:
    assert not any(is_stuck(each) for each in (Bare(), Frozen(), Slots(), OfMeta()))
