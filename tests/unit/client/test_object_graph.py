"""What a rollback follows, and what it must leave alone: machinery, odd objects, large and deep ones."""

from __future__ import annotations

import collections
import dataclasses
import enum
import io
import itertools
import logging
import queue
import threading
import time
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lrpilot.errors import ConfigError
from lrpilot.object_graph import ObjectGraph, is_followed, is_stuck
from lrpilot.snapshot import Snapshot
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.directives import training

pd, tqdm = pytest.importorskip("pandas"), pytest.importorskip("tqdm").tqdm


def holding(**attributes: Any) -> Any:
    """A module with plain attributes."""
    model = nn.Linear(2, 2)
    for name, value in attributes.items():
        model.__dict__[name] = value
    return model


def snapshot_of(model: nn.Module) -> Snapshot:
    snapshot = Snapshot(model, [], {})
    snapshot.take()
    return snapshot


# --- what is left alone -----------------------------------------------------------------------------------------------


def test_threads_locks_queues_and_files_go_on(tmp_path: Path) -> None:
    lock, done, work = threading.RLock(), threading.Event(), queue.Queue[int]()
    results: list[int] = []

    def serve() -> None:
        while (item := work.get()) >= 0:
            results.append(item)
        done.set()

    thread = threading.Thread(target=serve)
    with (tmp_path / "log").open("w+") as file, lock:
        model = holding(lock=lock, done=done, work=work, thread=thread, file=file, memory=io.BytesIO(b"abc"))
        thread.start()
        work.put(1)
        snapshot = snapshot_of(model)
        file.write("kept\n")
        work.put(2)
        work.put(-1)
        model.memory.read(2)
        thread.join()
        snapshot.restore()
        file.write("and kept\n")
    assert results == [1, 2]
    assert done.is_set()
    assert work.empty()
    assert not thread.is_alive()
    assert (tmp_path / "log").read_text() == "kept\nand kept\n"


def test_loggers_and_progress_bars_go_on(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.object_graph")
    with tqdm(total=10, file=io.StringIO()) as bar:
        snapshot = snapshot_of(holding(logger=logger, bar=bar, handlers=[logging.StreamHandler(io.StringIO())]))
        logger.addFilter(lambda record: True)
        bar.update(3)
        snapshot.restore()
        assert bar.n == 3
    assert len(logger.filters) == 1
    logger.filters.clear()


def test_a_trainer_that_is_reached_from_its_module_is_not_rolled_back() -> None:
    class Module(LightningModule):  # type: ignore[misc]  # its types are not read
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.counter = 0

    module, trainer = Module(), Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module._trainer = trainer
    snapshot = snapshot_of(module)
    module.counter = 3
    trainer.fit_loop.epoch_loop.batch_progress.total.ready = 7
    trainer.callback_metrics["loss"] = 1.0
    snapshot.restore()
    assert module.counter == 0
    assert trainer.fit_loop.epoch_loop.batch_progress.total.ready == 7
    assert trainer.callback_metrics["loss"] == 1.0


def test_a_tuner_that_is_stored_on_its_model_is_not_rolled_back() -> None:
    model: Any = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.tuner = Tuner(model, optimizer, transport=ScriptedTransport([training(0.1, 4)]), total_steps=4)
    snapshot = snapshot_of(model)
    for batch in itertools.islice(model.tuner.batches([torch.ones(1, 2)] * 9), 3):
        loss = model(batch).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        model.tuner.step(loss)
    assert model.tuner.committed_step == 3
    snapshot.restore()
    assert model.tuner.committed_step == 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_loader_with_workers_goes_on() -> None:
    data = TensorDataset(torch.arange(12.0))
    loader = DataLoader(data, batch_size=2, num_workers=1, persistent_workers=True)
    model = holding(loader=loader, data=data, iterator=iter(loader))
    first = next(model.iterator)[0]
    snapshot = snapshot_of(model)
    second = next(model.iterator)[0]
    snapshot.restore()
    rest = [batch for (batch,) in model.iterator]
    assert torch.equal(torch.cat([first, second, *rest]), torch.arange(12.0))
    del model.iterator, loader._iterator


def test_frames_mocks_and_code_are_left_as_they_are() -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    model = holding(
        frame=frame, mock=mock.MagicMock(spec=torch.Tensor), module=torch, function=len, cls=nn.Linear, code=print
    )
    snapshot = snapshot_of(model)
    frame.loc[0, "a"] = 5
    model.mock.calls = 3
    snapshot.restore()
    assert frame.loc[0, "a"] == 5
    assert model.mock.calls == 3
    assert model.module is torch


def test_files_in_memory_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.arange(10.0))
    mapped = np.load(tmp_path / "data.npy", mmap_mode="r+")
    snapshot = snapshot_of(holding(mapped=mapped, fixed=np.broadcast_to(np.ones(1), (10**9,))))
    mapped[0] = 5.0
    snapshot.restore()
    assert mapped[0] == 5.0


# --- odd objects ------------------------------------------------------------------------------------------------------


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
    """Of such a class."""

    def __init__(self) -> None:
        self.n = 0


class Bare(metaclass=Meta):
    """Of such a class, with nothing in it."""

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


def test_iterators_are_told_and_left() -> None:
    model = holding(count=itertools.count(), generator=(i for i in range(3)), rows=map(str, [1]))
    snapshot = snapshot_of(model)
    next(model.count)
    snapshot.restore()
    assert next(model.count) == 1
    assert all(is_stuck(each) for each in (model.count, model.generator, model.rows))
    assert not any(
        is_stuck(each) for each in (object(), 1, [], Frozen(), types.SimpleNamespace(), torch.ones(1), Bare())
    )


@pytest.mark.parametrize("value", [1, "a", len, nn.Linear, itertools.count(), torch.float32])
def test_what_can_not_be_put_back_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match="register: 'it' can't be put back"):
        Snapshot(nn.Linear(1, 1), [], {"it": value})


def test_a_registered_object_is_followed_whatever_it_is() -> None:
    class Worker(threading.Thread):
        def __init__(self) -> None:
            super().__init__()
            self.steps = [0]

    worker = Worker()
    assert not is_followed(worker)
    snapshot = Snapshot(nn.Linear(1, 1), [], {"a": worker, "b": worker})
    snapshot.take()
    worker.steps.append(1)
    snapshot.restore()
    assert worker.steps == [0]
    worker.start()
    worker.join()


# --- large and deep ones ----------------------------------------------------------------------------------------------


def test_deep_nesting_is_no_recursion() -> None:
    deep: list[Any] = []
    innermost = deep
    for _ in range(100_000):
        deep = [deep]
    chain: Any = None
    for _ in range(20_000):
        chain = types.SimpleNamespace(next=chain)
    snapshot = snapshot_of(holding(deep=deep, chain=chain))
    innermost.append(1)
    snapshot.restore()
    assert innermost == []
    while deep:  # from the outside: to free it all at once is a recursion of Python's own
        deep = deep.pop()


def test_a_large_list_costs_little_more_than_a_copy() -> None:
    values: list[Any] = [float(i) for i in range(1_000_000)]
    model = holding(values=values, table=dict.fromkeys(range(200_000), 0.0))
    snapshot = snapshot_of(model)
    started = time.perf_counter()
    snapshot.take()
    taken = time.perf_counter() - started
    values[5] = -1.0
    values.append(1.0)
    started = time.perf_counter()
    snapshot.restore()
    restored = time.perf_counter() - started
    assert (values[5], len(values)) == (5.0, 1_000_000)
    assert taken + restored < 2.0


def test_every_object_is_found_once() -> None:
    shared = [torch.ones(1)]
    model = holding(a=shared, b=(shared, shared), c={"x": shared[0]})
    graph = ObjectGraph()
    graph.add(model)
    graph.add(model)
    graph.add(shared[0])
    assert len(graph.tensors) == 3
    assert {id(t) for t in graph.tensors} == {id(t) for t in (model.weight, model.bias, shared[0])}
