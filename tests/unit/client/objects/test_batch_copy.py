"""Batches of any class, changed after a copy was taken: the copy gives the batch as it was."""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import logging
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lrpilot.objects.batch_copy import BatchCopier
from transformers import BatchEncoding
from transformers.utils import ModelOutput


@dataclasses.dataclass
class Mutable:
    x: Any
    y: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    y: Any


@attrs.define
class Attrs:
    x: Any
    y: Any


@attrs.frozen
class FrozenAttrs:
    x: Any
    y: Any


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Output(ModelOutput):  # type: ignore[misc]  # transformers has no types here
    x: Any = None
    y: Any = None


class Slots:
    """With a private slot, one that is never filled, and attributes besides."""

    __slots__ = ("__dict__", "__y", "never")

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.__y = x, y

    @property
    def y(self) -> Any:
        return self.__y


class AttributeDict(dict[str, Any]):
    """Raises the wrong exception for names that it doesn't have, as many such classes do."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__(x=x, y=y)


class Delegating:
    """As PyG's Data: all attributes are a store's, which knows its parent weakly."""

    def __init__(self, x: Any, y: Any) -> None:
        self.__dict__["store"] = store = Store()
        store.mapping.update(x=x, y=y)
        store.parent = weakref.ref(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["store"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("use the store")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__["store"].parent = weakref.ref(self)


class Store:
    parent: Any

    def __init__(self) -> None:
        self.mapping: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name == "mapping":
            raise AttributeError(name)
        return self.mapping[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"mapping": self.mapping}


class Demanding:
    """Can't be made without arguments, and refuses attributes."""

    def __new__(cls, x: Any, y: Any) -> Demanding:
        made = super().__new__(cls)
        vars(made).update(x=x, y=y)
        return made

    x: Any
    y: Any

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class Forgetful:
    """Leaves out of its pickled state what it has counted."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y, self.n = x, y, 3

    def __getstate__(self) -> dict[str, Any]:
        return {"x": self.x, "y": self.y}


class Unpicklable:
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __reduce__(self) -> Any:
        raise TypeError("keep out")


class Misleading:
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __setstate__(self, state: Any) -> None:
        raise ValueError("not what I wrote")


class Items(list[Any]):
    x = property(lambda self: self[0])
    y = property(lambda self: self[1])

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__([x, y])

    def append(self, value: Any) -> None:
        raise TypeError("full")


def encoding(x: Any, y: Any) -> Any:
    return BatchEncoding({"x": x, "y": y}, n_sequences=2)


def local(x: Any, y: Any) -> Any:
    class Local:
        pass

    made: Any = Local()
    made.x, made.y = x, y
    return made


KINDS: list[Callable[[Any, Any], Any]] = [
    Mutable,
    Frozen,
    Attrs,
    FrozenAttrs,
    Pair,
    Output,
    Slots,
    AttributeDict,
    Delegating,
    Demanding,
    Forgetful,
    Unpicklable,
    Misleading,
    Items,
    encoding,
    local,
    lambda x, y: types.SimpleNamespace(x=x, y=y),
]


def nested() -> tuple[torch.Tensor, list[Any]]:
    x = torch.arange(6.0).view(2, 3)
    return x, [x, x[1:], np.arange(4), {"labels": {1, 2}}, "text", 3, collections.deque([1]), bytearray(b"ab")]


def taken(batch: Any) -> Any:
    """A fresh copy."""
    return BatchCopier().take(batch).fresh()


def assert_as_drawn(batch: Any, kind: Any) -> None:
    assert type(batch) is kind
    x, y = batch.x, batch.y
    assert y[0] is x
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert y[1].tolist() == [[3, 4, 5]]
    assert [y[2].tolist(), *y[3:]] == [[0, 1, 2, 3], {"labels": {1, 2}}, "text", 3, collections.deque([1]), b"ab"]


def spoil(y: list[Any]) -> None:
    y[0].mul_(-1)
    y[2][:] = 9
    y[3]["labels"].clear()
    y[6].append(2)
    y[7].extend(b"c")
    y.append("more")


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_an_object_is_given_as_it_was_drawn(make: Callable[[Any, Any], Any], caplog: pytest.LogCaptureFixture) -> None:
    copier = BatchCopier()
    for _ in range(2):
        x, y = nested()
        batch = make(x, y)
        copy = copier.take(batch)
        spoil(y)
        for _ in range(2):
            fresh: Any = copy.fresh()
            assert_as_drawn(fresh, type(batch))
            spoil(fresh.y)
        assert_as_drawn(copy.uncopied(), type(batch))
    assert not caplog.records


def test_what_a_class_does_not_pickle_is_not_lost() -> None:
    assert taken(Forgetful(1, 2)).n == 3
    assert taken(encoding(1, 2)).n_sequences == 2


def test_a_weak_parent_is_the_copy() -> None:
    fresh = taken(Delegating(1, 2))
    assert fresh.store.parent() is fresh


def test_what_cannot_be_copied_is_shared_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    lock, copier = threading.Lock(), BatchCopier()
    generator = (i for i in range(3))
    x = torch.zeros(2)
    batch: dict[str, Any] = {"x": x, "lock": lock, "rest": generator}
    copy = copier.take(batch)
    copier.take(generator)
    x += 1
    fresh = copy.fresh()
    assert (fresh["x"].tolist(), fresh["lock"], fresh["rest"]) == ([0, 0], lock, generator)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "a lock in a batch can't be copied" in caplog.text


class Colour(enum.Enum):
    RED = object()


class Sentinel:
    pass


def test_what_has_an_identity_keeps_it() -> None:
    kept = [
        Colour.RED,
        object(),
        Sentinel(),
        Sentinel,
        torch.float32,
        np.dtype("f4"),
        len,
        spoil,
        torch.nn.Linear(1, 1),
    ]
    fresh = taken(kept)
    assert all(a is b for a, b in zip(fresh, kept, strict=True))


def test_the_loader_is_no_part_of_a_batch() -> None:
    loader = types.SimpleNamespace(data=[1, 2], again=[])
    batch = types.SimpleNamespace(loader=loader, x=[1])
    assert BatchCopier([loader]).take(batch).fresh().loader is loader
    assert BatchCopier([loader]).take(loader).fresh().data is not loader.data


def test_a_batch_that_holds_itself_is_copied() -> None:
    batch: dict[str, Any] = {"x": torch.zeros(1)}
    batch["self"] = batch
    node = Mutable(batch, None)
    node.y = node
    fresh = taken(node)
    assert fresh.y is fresh
    assert fresh.x["self"] is fresh.x


def test_objects_too_deep_for_pickle_are_shared(caplog: pytest.LogCaptureFixture) -> None:
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    assert taken(deep) is deep
    assert "a list in a batch can't be copied" in caplog.text
    while deep:  # Freed in a row, and not in a recursion.
        deep = deep[0]


TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "contiguous": lambda: torch.randn(3, 4),
    "scalar": lambda: torch.tensor(2.0),
    "empty": lambda: torch.empty(0, 3),
    "transposed": lambda: torch.randn(3, 4).t(),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "column": lambda: torch.randn(100, 7)[:, 3],
    "unaligned": lambda: torch.randn(100)[3:40],
    "expanded": lambda: torch.randn(3, 1).expand(3, 1000),
    "windows": lambda: torch.randn(20).unfold(0, 5, 1),
    "bfloat16": lambda: torch.randn(5, dtype=torch.bfloat16),
    "complex": lambda: torch.randn(5, dtype=torch.complex64).conj(),
    "negative": lambda: torch.randn(5, dtype=torch.complex64).conj().imag,
    "bool": lambda: torch.tensor([True, False]),
    "of a mapping": lambda: torch.from_numpy(np.arange(9.0)[2:]),
    "NaN": lambda: torch.tensor([float("nan"), 1.0]),
}


def description(tensor: torch.Tensor) -> tuple[Any, ...]:
    memory = tensor.data_ptr() % 64, tensor.stride()
    return type(tensor), tensor.dtype, tensor.shape, memory, tensor.requires_grad, str(tensor.tolist())


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
def test_a_tensor_is_the_same_to_every_kernel(make: Callable[[], torch.Tensor]) -> None:
    tensor = make()
    before = description(tensor)
    if tensor.is_conj() or tensor.is_neg():
        before = (*before[:3], *before[4:])
    copy = BatchCopier().take((tensor, "x"))
    with torch.no_grad():
        tensor[..., :1].zero_() if tensor.ndim else tensor.zero_()
    for fresh in (copy.fresh()[0], copy.uncopied()[0]):
        now = description(fresh)
        assert (now if len(before) == 6 else (*now[:3], *now[4:])) == before
        assert not fresh._is_view()


def test_special_tensors_are_copied() -> None:
    with torch.inference_mode():
        inference = torch.ones(3)
    sparse = torch.eye(3).to_sparse()
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    meta = torch.empty(3, device="meta")
    copy = BatchCopier().take([inference, sparse, jagged, meta])
    with torch.inference_mode():
        inference.zero_()
    sparse.zero_()
    a, b, c, d = copy.fresh()
    assert a.is_inference()
    assert a.tolist() == [1, 1, 1]
    assert b.to_dense().tolist() == torch.eye(3).tolist()
    assert [each.tolist() for each in c.unbind()] == [[1, 1], [1, 1, 1]]
    assert d.is_meta


def test_copies_taken_in_inference_mode_can_be_trained_on() -> None:
    x = torch.ones(2)
    with torch.inference_mode():
        fresh = BatchCopier().take(x).fresh()
    assert not fresh.is_inference()
    assert (fresh * torch.ones(2, requires_grad=True)).requires_grad


@pytest.mark.parametrize("trained", [torch.nn.Parameter(torch.ones(3)), torch.randn(3, requires_grad=True)])
def test_what_is_trained_is_referred_to(trained: torch.Tensor) -> None:
    copier = BatchCopier()
    copy = copier.take((trained, torch.ones(2)))
    assert copy.fresh()[0] is copy.uncopied()[0] is trained
    assert not copier.saw_history


def test_a_tensor_with_a_history_is_noticed() -> None:
    copier = BatchCopier()
    x = torch.ones(2, requires_grad=True) * 3
    assert copier.take({"x": [x]}).fresh()["x"][0] is x
    assert copier.saw_history


class Image(torch.Tensor):
    """As torchvision's: a subclass that carries metadata, and hears of every operation."""

    size_of_canvas: Any

    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("nothing is to be computed with images here")


def test_a_subclass_keeps_its_attributes() -> None:
    image = torch.zeros(3).as_subclass(Image)
    image.size_of_canvas = [4, 4]
    copy = BatchCopier().take([image, image])
    image.size_of_canvas.append(1)
    a, b = copy.fresh()
    assert a is b
    assert type(a) is Image
    assert vars(a) == {"size_of_canvas": [4, 4]}


def test_shared_memory_stays_shared() -> None:
    tokens = torch.arange(40).view(2, 20)
    ids = np.arange(10)
    copy = BatchCopier().take((tokens[:, :-1], tokens[:, 1:], ids[:-1], ids[1:], torch.arange(3)))
    tokens.zero_()
    ids[:] = 0
    inputs, labels, before, after, _ = copy.fresh()
    labels[0, 0], after[0] = -100, -100
    assert (inputs[0, 1].item(), before[1]) == (-100, -100)
    assert inputs[0, 2].item() == 2
    assert copy.fresh()[0][0, 1].item() == 1


def test_a_view_is_copied_without_the_rest() -> None:
    data, table = torch.zeros(10_000, 1_000), np.zeros((10_000, 1_000))
    batch: Any = data[5:9], table[5:9], data[:, 3]
    x, y, z = BatchCopier().take(batch).uncopied()
    assert x.untyped_storage().nbytes() < 20_000
    assert y.base.nbytes < 40_000
    assert z.untyped_storage().nbytes() < 50_000


ARRAYS: dict[str, Callable[[], Any]] = {
    "contiguous": lambda: np.arange(6.0).reshape(2, 3),
    "by columns": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "reversed": lambda: np.arange(10)[::-2],
    "column": lambda: np.arange(12.0).reshape(4, 3)[:, 1],
    "scalar": lambda: np.array(3),
    "empty": lambda: np.empty((0, 2)),
    "text": lambda: np.array(["a", "bc"]),
    "dates": lambda: np.array(["2020-01-01"], "M8[D]"),
    "records": lambda: np.array([(1, 2.0)], "i4,f8"),
    "strings": lambda: np.array(["a", "bc"], np.dtypes.StringDType()),
}


@pytest.mark.parametrize("make", ARRAYS.values(), ids=ARRAYS)
def test_an_array_is_the_same_to_numpy(make: Callable[[], Any]) -> None:
    value = make()
    strides, content = value.strides, value.tolist()
    copy = BatchCopier().take({"x": value})
    value[...] = np.zeros_like(value)
    fresh = copy.fresh()["x"]
    assert type(fresh) is np.ndarray
    assert (fresh.dtype, fresh.strides, fresh.tolist()) == (value.dtype, strides, content)
    assert fresh.flags.writeable


def test_arrays_of_objects_are_copied_deeply() -> None:
    value = np.empty((2, 2), object, order="F")
    value[0, 0], value[0, 1], value[1, 0], value[1, 1] = [1], torch.zeros(2), np.arange(2), value
    copy = BatchCopier().take(value)
    value[0, 0].append(2)
    value[0, 1].fill_(1)
    value[1, 0][:] = 7
    fresh = copy.fresh()
    assert fresh.flags.f_contiguous
    assert (fresh[0, 0], fresh[0, 1].tolist(), fresh[1, 0].tolist()) == ([1], [0, 0], [0, 1])
    assert fresh[1, 1] is fresh


def test_special_arrays_come_back(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "data", np.float32, "w+", shape=(4,))
    masked: Any = np.ma.masked_array([1.0, 2.0], [True, False])
    fixed = np.arange(3)
    fixed.flags.writeable = False
    record = np.zeros(2, "i4,O")
    scalar = np.zeros(1, "i4,f4")[0]
    copy = BatchCopier().take([mapped, masked, np.broadcast_to(1, (3,)), fixed, record, scalar, array.array("i", [1])])
    mapped[:], masked[1], masked.mask[0], scalar["f0"] = 5, 9, False, 3
    a, b, c, d, e, f, g = copy.fresh()
    assert type(a) is np.ndarray
    assert a.tolist() == [0, 0, 0, 0]
    assert b.tolist() == [None, 2.0]
    assert [c.tolist(), d.tolist(), e.tolist(), g.tolist()] == [[1, 1, 1], [0, 1, 2], [(0, 0), (0, 0)], [1]]
    assert f["f0"] == 0


def leaves() -> st.SearchStrategy[Any]:
    shapes = st.lists(st.integers(0, 3), max_size=3)
    tensors = shapes.map(lambda shape: torch.arange(float(np.prod(shape))).reshape(shape))
    arrays = shapes.map(lambda shape: np.arange(float(np.prod(shape))).reshape(shape))
    return st.one_of(tensors, tensors.map(lambda t: t[..., ::2] if t.ndim else t), arrays, st.integers(), st.text())


batches = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        *(
            st.builds(kind, inner, inner)
            for kind in (Mutable, Frozen, FrozenAttrs, Pair, Slots, AttributeDict, Forgetful)
        ),
    ),
    max_leaves=8,
)


def plain(value: Any) -> Any:
    """All of a batch, comparable."""
    if isinstance(value, torch.Tensor):
        memory = (value.stride(), value.data_ptr() % 64) if value.numel() else None
        return "tensor", value.dtype, memory, value.tolist()
    if isinstance(value, np.ndarray):
        return "array", value.dtype, value.strides if value.size else None, value.tolist()
    if isinstance(value, dict):
        return type(value).__name__, [(key, plain(each)) for key, each in value.items()]
    if isinstance(value, list):
        return list(map(plain, value))
    if hasattr(type(value), "x") or hasattr(value, "x"):
        return type(value).__name__, plain(value.x), plain(value.y)
    return value


def change(value: Any) -> None:
    """Everything that can be changed in a batch, is."""
    if isinstance(value, torch.Tensor | np.ndarray):
        value += 1
    elif isinstance(value, dict):
        for each in value.values():
            change(each)
        value.clear()
    elif isinstance(value, list):
        for each in value:
            change(each)
        value.append("changed")
    elif hasattr(value, "x"):
        change(value.x)
        change(value.y)


@settings(deadline=None, max_examples=150)
@given(batches)
def test_any_batch_is_given_as_it_was(batch: Any) -> None:
    before = plain(batch)
    copy = BatchCopier().take(batch)
    change(batch)
    for _ in range(2):
        fresh = copy.fresh()
        assert plain(fresh) == before
        change(fresh)
    assert plain(copy.uncopied()) == before
