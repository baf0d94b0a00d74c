"""What a rollback follows, and what it must leave alone: machinery, large objects and deep ones."""

from __future__ import annotations

import collections
import io
import itertools
import logging
import queue
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lrpilot.backends.torch.rollback.snapshot import Snapshot
from lrpilot.errors import ConfigError
from lrpilot.objects.graph import ObjectGraph, is_followed, is_stuck
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.training.model_attributes import holding, snapshot_of
from tests.support.training.scripted_directives import training

pd, tqdm = pytest.importorskip("pandas"), pytest.importorskip("tqdm").tqdm


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


def test_iterators_are_told_and_left() -> None:
    model = holding(count=itertools.count(), generator=(i for i in range(3)), rows=map(str, [1]))
    snapshot = snapshot_of(model)
    next(model.count)
    snapshot.restore()
    assert next(model.count) == 1
    assert all(is_stuck(each) for each in (model.count, model.generator, model.rows))
    assert not any(is_stuck(each) for each in (object(), 1, [], types.SimpleNamespace(), torch.ones(1)))


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


class Slotted:
    """Holds something in a slot."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: Any = 1


class Holder(nn.Module):
    """Holds things as users' modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.count = 0
        self.history: list[Any] = [*range(40)]
        self.nested = ({"deep": [torch.zeros(1)]},)
        self.slotted = Slotted()
        self.notes: collections.OrderedDict[str, Any] = collections.OrderedDict(a=1, b=[])


class AnotherHolder(Holder):
    """What a holder may turn into."""


def new_buffer(holder: Holder) -> None:
    holder.mean = torch.ones(2)


def new_class(holder: Holder) -> None:
    holder.__class__ = AnotherHolder


def new_in_slot(holder: Holder) -> None:
    holder.slotted.held = torch.ones(1)


def new_note_on_a_tensor(holder: Holder) -> None:
    holder.layer.weight.__dict__["note"] = [torch.ones(1)]


@pytest.mark.parametrize(
    "change",
    [
        new_buffer,
        new_class,
        new_in_slot,
        new_note_on_a_tensor,
        lambda holder: setattr(holder, "added", torch.ones(1)),
        lambda holder: setattr(holder, "layer", nn.Linear(2, 2)),
        lambda holder: holder.history.append(torch.ones(1)),
        lambda holder: holder.nested[0]["deep"].append(torch.ones(1)),
        lambda holder: holder.nested[0].pop("deep"),
        lambda holder: holder.notes.move_to_end("b", last=False) or holder.notes.update(a=[]),
    ],
)
def test_a_graph_that_leads_elsewhere_is_told(change: Callable[[Holder], Any]) -> None:
    holder = Holder()
    graph = ObjectGraph()
    graph.add(holder)
    assert graph.leads_as_before()
    change(holder)
    assert not graph.leads_as_before()


@pytest.mark.parametrize(
    "change",
    [
        lambda holder: setattr(holder, "count", 7),
        lambda holder: holder.history.append(0.5),
        lambda holder: holder.mean.add_(1),
        lambda holder: holder.notes.update(a=2.5, c=None),
    ],
)
def test_other_numbers_and_values_lead_to_the_same(change: Callable[[Holder], Any]) -> None:
    holder = Holder()
    graph = ObjectGraph()
    graph.add(holder)
    change(holder)
    assert graph.leads_as_before()
