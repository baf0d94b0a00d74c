import collections
import dataclasses
import io
import queue
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lrpilot.data.replay import BatchBuffer
from lrpilot.rng import RandomState
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


class Augmented(Dataset[torch.Tensor]):
    """Nine samples that are augmented with draws from all three generators."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = torch.rand(2) + random.random() + float(np.random.rand())
        return index + noise


def loader() -> DataLoader[torch.Tensor]:
    return DataLoader(Augmented(), batch_size=2, shuffle=True)


def seed() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


def model_step(batch: torch.Tensor) -> tuple[Any, ...]:
    """What the model sees, and what it draws itself."""
    return batch.tolist(), torch.rand(3).tolist(), float(np.random.rand()), random.random()


def plain_run(n_steps: int) -> list[tuple[Any, ...]]:
    """A loop over epochs without any buffer."""
    seed()
    steps: list[tuple[Any, ...]] = []
    batches = loader()
    while True:
        for batch in batches:
            if len(steps) == n_steps:
                return steps
            steps.append(model_step(batch))


PLAIN = plain_run(80)

operations = st.lists(
    st.one_of(
        st.tuples(st.just("draw"), st.integers(1, 7)),
        st.tuples(st.sampled_from(["mark", "rewind", "release"]), st.just(1)),
    ),
    max_size=11,
)


@settings(deadline=None, max_examples=60)
@given(operations)
def test_steps_are_bitwise_those_of_a_plain_loop(operations: list[tuple[str, int]]) -> None:
    seed()
    buffer = BatchBuffer(loader())
    position, marked = 0, None
    random_state = RandomState.capture()
    for operation, n in operations:
        if operation == "draw":
            for _ in range(n):
                assert model_step(buffer.draw()) == PLAIN[position]
                position += 1
        elif operation == "mark":
            buffer.mark()
            marked, random_state = position, RandomState.capture()
        elif operation == "release":
            buffer.release()
            marked = None
        elif marked is not None:
            buffer.rewind()
            position = marked
            random_state.restore()
        else:
            with pytest.raises(RuntimeError, match="without mark"):
                buffer.rewind()


def test_epochs_are_crossed() -> None:
    buffer = BatchBuffer([1, 2, 3])
    assert [buffer.draw() for _ in range(8)] == [1, 2, 3, 1, 2, 3, 1, 2]


def test_only_what_lies_after_the_mark_or_ahead_is_kept() -> None:
    buffer = BatchBuffer(range(100))
    for _ in range(5):
        buffer.draw()
    assert len(buffer._behind) == 0
    buffer.mark()
    for _ in range(5):
        buffer.draw()
    buffer.mark()
    assert len(buffer._behind) == 0
    for _ in range(3):
        buffer.draw()
    buffer.rewind()
    buffer.release()
    assert [buffer.draw(), buffer.draw()] == [10, 11]
    assert (len(buffer._behind), len(buffer._ahead)) == (0, 1)


def test_a_draw_that_uses_no_random_state_sets_none_when_replayed() -> None:
    buffer = BatchBuffer([1, 2])
    buffer.mark()
    buffer.draw()
    buffer.rewind()
    before = RandomState.capture()
    buffer.draw()
    assert RandomState.capture().changed_since(before) is None


def test_an_infinite_dataset_is_drawn_from_without_end() -> None:
    class Endless(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(int, 1)

    buffer = BatchBuffer(DataLoader(Endless(), batch_size=3))
    buffer.mark()
    assert all(buffer.draw().tolist() == [0, 0, 0] for _ in range(20))


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the loader \(list\) is empty"):
        BatchBuffer([]).draw()


def test_a_generator_that_is_used_up_is_named_as_such() -> None:
    buffer = BatchBuffer(i for i in range(2))
    buffer.mark()
    assert [buffer.draw(), buffer.draw()] == [0, 1]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"\(generator\) can be iterated only once"):
            buffer.draw()
    buffer.rewind()
    assert [buffer.draw(), buffer.draw()] == [0, 1]


def test_a_loaders_own_exception_passes_through_and_records_nothing() -> None:
    class Flaky:
        failures = 1

        def __iter__(self) -> Iterator[int]:
            yield 0
            if self.failures:
                self.failures = 0
                raise OSError("disk")
            yield 1

    buffer = BatchBuffer(Flaky())
    buffer.mark()
    buffer.draw()
    with pytest.raises(OSError, match="disk"):
        buffer.draw()
    buffer.rewind()
    assert [buffer.draw(), buffer.draw(), buffer.draw()] == [0, 0, 1]


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, collections.UserDict])
def test_containers_that_the_loop_takes_apart_come_back_whole(kind: Any) -> None:
    buffer = BatchBuffer(kind({"image": [torch.zeros(2)], "rest": (torch.ones(2), {"id": 3})}) for _ in range(2))
    buffer.mark()
    for _ in range(3):
        for _ in range(2):
            batch = buffer.draw()
            assert type(batch) is kind
            assert batch["image"].pop().tolist() == [0, 0]
            rest = batch.pop("rest")
            assert rest[0].tolist() == [1, 1]
            assert rest[1].pop("id") == 3
        buffer.rewind()


@dataclasses.dataclass
class Graph:
    x: torch.Tensor
    y: torch.Tensor


def train(
    make_loader: Callable[[], Any], change: Callable[[Any], torch.Tensor], probes: dict[int, tuple[int, ...]]
) -> Any:
    """The weights after 40 committed steps, with probes rolled back before some of them."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    buffer = BatchBuffer(make_loader())

    def step() -> None:
        loss = model(change(buffer.draw())).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for place in range(40):
        if place in probes:
            buffer.mark()
            weights, random_state = [each.detach().clone() for each in model.parameters()], RandomState.capture()
            for n_steps in probes[place]:
                for _ in range(n_steps):
                    step()
                buffer.rewind()
                random_state.restore()
                for each, weight in zip(model.parameters(), weights, strict=True):
                    each.data.copy_(weight)
            buffer.release()
        step()
    return [each.tolist() for each in model.parameters()]


DATA = torch.randn(90, 3, generator=torch.Generator().manual_seed(1))


def views() -> Any:
    """Batches that begin anywhere in memory, and are the data themselves."""
    data = DATA.clone()
    return [data[first : first + 10] for first in range(0, 90, 10)]


class Objects:
    def __iter__(self) -> Iterator[Graph]:
        return (Graph(DATA[first : first + 10].clone(), DATA[:1]) for first in range(0, 90, 10))


class Refilled:
    """One batch, filled again and again."""

    def __init__(self, wrap: Callable[[torch.Tensor], Any]) -> None:
        self.memory = torch.empty(10, 3)
        self.batch = wrap(self.memory)

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, 90, 10):
            self.memory.copy_(DATA[first : first + 10])
            yield self.batch


class Ring:
    """Three arrays that a thread fills ahead of the loop."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        free: queue.Queue[Any] = queue.Queue()
        full: queue.Queue[Any] = queue.Queue()
        for _ in range(3):
            free.put(np.empty((10, 3), np.float32))

        def fill() -> None:
            for first in range(0, 90, 10):
                memory = free.get()
                memory[:] = DATA[first : first + 10].numpy()
                full.put(memory)

        thread = threading.Thread(target=fill, daemon=True)  # an epoch may be left before its end
        thread.start()
        for _ in range(9):
            memory = full.get()
            yield torch.from_numpy(memory)
            memory[:] = np.nan
            free.put(memory)
        thread.join()


class Rebound:
    """One object, whose attributes are set again and again."""

    def __iter__(self) -> Iterator[Graph]:
        batch = Graph(DATA, DATA)
        for first in range(0, 90, 10):
            batch.x = DATA[first : first + 10].clone()
            yield batch


def in_place(batch: Any) -> torch.Tensor:
    x = batch if isinstance(batch, torch.Tensor) else batch.x
    return x.div_(3)


def by_assignment(batch: Graph) -> torch.Tensor:
    batch.x = batch.x / 3
    return batch.x


@pytest.mark.parametrize(
    ("make_loader", "change"),
    [
        (views, in_place),
        (views, lambda batch: batch),
        (Objects, in_place),
        (Objects, by_assignment),
        (lambda: Refilled(lambda memory: memory), in_place),
        (lambda: Refilled(lambda memory: Graph(memory, memory)), in_place),
        (Ring, in_place),
        (Rebound, by_assignment),
        (Rebound, in_place),
    ],
)
def test_the_weights_are_bitwise_those_of_a_run_without_probes(
    make_loader: Callable[[], Any], change: Callable[[Any], torch.Tensor]
) -> None:
    expected = train(make_loader, change, {})
    assert train(make_loader, change, {0: (5, 12, 3), 1: (2, 2), 20: (15, 15)}) == expected


def test_batches_are_only_copied_while_a_search_is_open() -> None:
    batches = [torch.zeros(1), torch.ones(1)]
    buffer = BatchBuffer(batches)
    assert all(buffer.draw() is batches[0] and buffer.draw() is batches[1] for _ in range(2))


def test_a_checkpoint_holds_batches_as_they_were() -> None:
    def loader() -> list[dict[str, Any]]:
        return [{"x": torch.zeros(2), "n": [1]}, {"x": torch.ones(2), "n": [2]}]

    first = BatchBuffer(loader())
    first.mark()
    for _ in range(2):
        batch = first.draw()
        batch["x"] -= 9
        batch["n"].clear()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = BatchBuffer(loader())
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        second.rewind()
        batch = second.draw()
        assert (batch["x"].tolist(), batch["n"]) == ([0, 0], [1])
        batch["x"] += 1


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_uneven_last_batches_and_new_epochs_are_replayed_too(options: dict[str, Any]) -> None:
    """Over two epochs' ends; a generator of the user's own goes on as if nothing had been replayed."""

    def make() -> DataLoader[Any]:
        dataset = TensorDataset(torch.arange(7))
        generator = torch.Generator().manual_seed(5)
        return DataLoader(dataset, 3, shuffle=True, generator=generator, **options)

    plain = make()
    expected = [batch[0].tolist() for _ in range(4) for batch in plain]
    assert list(map(len, expected[:6])) == [3, 3, 1, 3, 3, 1]
    buffer = BatchBuffer(make())
    assert buffer.draw()[0].tolist() == expected[0]
    buffer.mark()
    for n_drawn in (6, 3, 7):
        assert [buffer.draw()[0].tolist() for _ in range(n_drawn)] == expected[1 : 1 + n_drawn]
        buffer.rewind()
    buffer.release()
    assert [buffer.draw()[0].tolist() for _ in expected[1:]] == expected[1:]


def test_a_buffer_resumes_within_a_replayed_probe() -> None:
    """Some batches passed, some ahead, and the loader past both, in the next epoch."""
    seed()
    first = BatchBuffer(loader())
    steps = [model_step(first.draw()) for _ in range(3)]
    first.mark()
    for _ in range(4):
        first.draw()
    first.rewind()
    for _ in range(2):
        first.draw()
    state, random_state = first.state_dict(), RandomState.capture()
    expected = [model_step(first.draw()) for _ in range(9)]
    assert steps == PLAIN[:3]

    torch.manual_seed(99)
    second = BatchBuffer(loader())
    second.load_state_dict(state)
    random_state.restore()
    assert [model_step(second.draw()) for _ in range(9)] == expected
    second.rewind()
    assert second.draw().tolist() == PLAIN[3][0]
