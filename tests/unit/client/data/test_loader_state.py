"""Loaders whose parts have a state of their own: replayed, shared with the model, and resumed in another process."""

from __future__ import annotations

import collections
import functools
import io
import itertools
import queue
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from lrpilot.data.loader_parts import Parts
from lrpilot.data.loader_state import LoaderState
from lrpilot.data.replay import BatchBuffer
from lrpilot.objects import plain_copies
from lrpilot.rng import RandomState
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

# Lightning's CombinedLoader asks for a class of PyTorch's that is going.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec:FutureWarning")

N_SAMPLES, BATCH, PER_EPOCH = 11, 2, 6  # The last batch of an epoch is uneven.
MODULE_GENERATOR = np.random.default_rng(0)


class Squares(Dataset[torch.Tensor]):
    """Samples that go through a transform."""

    def __init__(self, transform: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return N_SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        sample = torch.tensor([float(index), float(index**2)])
        return self.transform(sample) if self.transform else sample


class NumpySampler(Sampler[int]):
    def __init__(self, generator: Any) -> None:
        self.rng = generator

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.permutation(N_SAMPLES).tolist())


class PythonSampler(Sampler[int]):
    def __init__(self) -> None:
        self.random = random.Random(4)

    def __iter__(self) -> Iterator[int]:
        for _ in range(N_SAMPLES):
            yield self.random.randrange(N_SAMPLES)


class CountingSampler(Sampler[int]):
    """Seeds itself with a number that it counts itself."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        generator = torch.Generator().manual_seed(self.epoch)
        yield from torch.randperm(N_SAMPLES, generator=generator).tolist()


class ReseededSampler(Sampler[int]):
    """Makes a new generator for every epoch, and keeps it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"epoch": 0, "history": []}
        self.rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[int]:
        self.state["epoch"] += 1
        self.state["history"].append(int(self.rng.integers(100)))
        self.rng = np.random.default_rng([self.state["epoch"], *self.state["history"]])
        for _ in range(N_SAMPLES):
            yield int(self.rng.integers(N_SAMPLES))


class ShuffledInPlace(Sampler[int]):
    """Shuffles what it shuffled before, in slots."""

    __slots__ = ("order", "rng")

    def __init__(self, order: Any) -> None:
        self.order = order
        self.rng = random.Random(1)

    def __iter__(self) -> Iterator[int]:
        swaps = [self.rng.randrange(len(self.order)) for _ in self.order]
        for place, other in enumerate(swaps):
            self.order[place], self.order[other] = int(self.order[other]), int(self.order[place])
        yield from (int(each) for each in self.order if each < N_SAMPLES)


class StatefulSampler(Sampler[int]):
    """As torchdata's: it has a state, and the loader around it does not ask for that."""

    def __init__(self) -> None:
        self.yielded, self.next_yielded, self.generator = 0, None, torch.Generator().manual_seed(2)

    def __iter__(self) -> Iterator[int]:
        self.yielded = 0
        for index in torch.randperm(N_SAMPLES, generator=self.generator).tolist():
            self.yielded += 1
            yield index

    def state_dict(self) -> dict[str, Any]:
        return {"yielded": self.yielded, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next_yielded = state["yielded"]
        self.generator.set_state(state["generator"])


class WindowSampler(Sampler[list[int]]):
    """A batch sampler with a counter and a window of what it gave last."""

    def __init__(self) -> None:
        self.n_given = np.int64(0)
        self.last: collections.deque[int] = collections.deque([0], maxlen=3)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(PER_EPOCH):
            self.n_given += 1
            self.last.append((sum(self.last) * 7 + int(self.n_given)) % N_SAMPLES)
            yield list(self.last)


class Compose:
    def __init__(self, *transforms: Callable[[Any], Any]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Any) -> Any:
        for transform in self.transforms:
            sample = transform(sample)
        return sample


class Noise(torch.nn.Module):
    """A transform with a generator and a counter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.n_calls = 0

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        return sample + torch.rand(2, generator=self.generator) + self.n_calls


def add(noise: np.random.RandomState, sample: torch.Tensor) -> torch.Tensor:
    return sample + float(noise.rand())


def in_closure() -> Callable[[torch.Tensor], torch.Tensor]:
    generator = np.random.Generator(np.random.MT19937(3))
    return lambda sample: sample * float(generator.normal())


def of_the_module() -> DataLoader[torch.Tensor]:
    MODULE_GENERATOR.bit_generator.state = np.random.default_rng(9).bit_generator.state
    return DataLoader(Squares(lambda sample: sample + float(MODULE_GENERATOR.random())), BATCH)


class Wrapper:
    """A class around a generator function, which mixes two loaders."""

    def __init__(self, *loaders: Any) -> None:
        self.loaders = loaders
        self.n_epochs = 0

    def __iter__(self) -> Iterator[Any]:
        self.n_epochs += 1
        for batches in zip(*self.loaders, strict=True):
            yield torch.cat(batches) * self.n_epochs


class OwnPosition:
    """Is its own iterator, and knows its position by an attribute."""

    def __init__(self) -> None:
        self.position, self.n_rounds = 0, 0

    def __iter__(self) -> OwnPosition:
        self.position = 0
        self.n_rounds += 1
        return self

    def __next__(self) -> torch.Tensor:
        if self.position == PER_EPOCH:
            raise StopIteration
        self.position += 1
        return torch.tensor([self.position, self.n_rounds])


class NoEnd(IterableDataset[torch.Tensor]):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(6)

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            yield torch.tensor(self.rng.normal(size=2))


def shuffled(generator: torch.Generator) -> DataLoader[torch.Tensor]:
    return DataLoader(Squares(), BATCH, shuffle=True, generator=generator)


def sampled(sampler: Any) -> DataLoader[torch.Tensor]:
    return DataLoader(Squares(), BATCH, sampler=sampler)


def torchs(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOADERS: dict[str, Callable[[], Any]] = {
    "torch generator": lambda: shuffled(torchs()),
    "numpy generator": lambda: sampled(NumpySampler(np.random.default_rng(1))),
    "numpy RandomState": lambda: sampled(NumpySampler(np.random.RandomState(1))),
    "python generator": lambda: sampled(PythonSampler()),
    "counter": lambda: sampled(CountingSampler()),
    "new generators": lambda: sampled(ReseededSampler()),
    "shuffled list": lambda: sampled(ShuffledInPlace(list(range(N_SAMPLES)))),
    "shuffled array": lambda: sampled(ShuffledInPlace(np.arange(N_SAMPLES))),
    "shuffled tensor": lambda: sampled(ShuffledInPlace(torch.arange(N_SAMPLES))),
    "large shuffled list": lambda: sampled(ShuffledInPlace(list(range(2_000)))),
    "stateful sampler": lambda: sampled(StatefulSampler()),
    "batch sampler": lambda: DataLoader(Squares(), batch_sampler=WindowSampler()),
    "transforms": lambda: DataLoader(Squares(Compose(Compose(Noise()), in_closure())), BATCH),
    "partial": lambda: DataLoader(Squares(functools.partial(add, np.random.RandomState(5))), BATCH),
    "module's generator": of_the_module,
    "wrapper": lambda: Wrapper(shuffled(torchs(1)), sampled(CountingSampler())),
    "own position": OwnPosition,
    "no end": lambda: DataLoader(NoEnd(), BATCH),
    "cycle": lambda: itertools.cycle(shuffled(torchs())),
    "zip": lambda: zip(DataLoader(NoEnd(), BATCH), DataLoader(NoEnd(), 1), strict=True),
    "combined": lambda: CombinedLoader([shuffled(torchs(1)), sampled(CountingSampler())], "min_size"),
}
every_loader = pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def plain(batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    return list(map(plain, batch)) if isinstance(batch, list | tuple) else batch


def own_state(buffer: BatchBuffer[Any]) -> dict[str, Any]:
    """The state of the loader's parts; a cycle lets go of its loader after one round."""
    if isinstance(buffer.loader, itertools.cycle):
        return {}
    state = LoaderState(buffer.loader).capture_all().state_dict()
    return {kind: {path: plain(value) for path, value in values.items()} for kind, values in state.items()}


def step(buffer: BatchBuffer[Any]) -> tuple[Any, ...]:
    """A batch, the state of the loader's parts as its draw left that, and what the model draws."""
    return plain(buffer.draw()), own_state(buffer), torch.rand(2).tolist(), random.random(), float(np.random.rand())


@every_loader
def test_a_search_leaves_no_trace(make: Callable[[], Any]) -> None:
    seed(1)
    buffer = BatchBuffer(make())
    expected = [step(buffer) for _ in range(30)]

    seed(1)
    buffer = BatchBuffer(make())
    assert [step(buffer) for _ in range(2)] == expected[:2]
    buffer.mark()
    random_state = RandomState.capture()
    for n_drawn in (3, 14, 9):
        assert [step(buffer) for _ in range(n_drawn)] == expected[2 : 2 + n_drawn]
        buffer.rewind()
        random_state.restore()
    buffer.release()
    assert [step(buffer) for _ in expected[2:]] == expected[2:]


def saved(state: Any) -> Any:
    """What a checkpoint file gives back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("n_ahead", [0, 5])
@every_loader
def test_another_process_goes_on(make: Callable[[], Any], n_ahead: int) -> None:
    """From the middle of the first epoch, from its end, and from the third; with replays due or without."""
    for stop in (4, PER_EPOCH, 2 * PER_EPOCH + 1):
        seed(1)
        first = BatchBuffer(make())
        for _ in range(stop):
            step(first)
        first.mark()
        random_state = RandomState.capture()
        for _ in range(n_ahead):
            step(first)
        first.rewind()
        random_state.restore()
        if n_ahead:
            step(first)
        state = saved({"data": first.state_dict(), "random_state": RandomState.capture().state_dict()})
        expected = [step(first) for _ in range(15)]

        seed(2)
        second = BatchBuffer(make())
        second.load_state_dict(state["data"])
        RandomState.from_state_dict(state["random_state"]).restore()
        assert [step(second) for _ in expected] == expected, f"stopped after {stop}"


def test_a_generator_that_the_model_shares_is_where_the_draw_left_it() -> None:
    def run(marks: dict[int, int]) -> list[Any]:
        shared = torchs(1)
        buffer, steps = BatchBuffer(shuffled(shared)), []
        for place in range(15):
            for _ in range(marks.get(place, 0)):
                buffer.mark()
                state = shared.get_state()
                for _ in range(8):
                    buffer.draw()
                    torch.rand(3, generator=shared)
                buffer.rewind()
                shared.set_state(state)
            buffer.release()
            steps.append((buffer.draw().tolist(), torch.rand(3, generator=shared).tolist()))
        return steps

    assert run({0: 2, 3: 1}) == run({})


def test_a_loader_that_draws_in_a_thread_is_left_alone() -> None:
    class Prefetched:
        """Fills a queue ahead of the loop, from a generator of its own."""

        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

        def __iter__(self) -> Iterator[float]:
            ready: queue.Queue[float] = queue.Queue(maxsize=4)

            def fill() -> None:
                for _ in range(40):
                    ready.put(float(self.rng.random()))

            thread = threading.Thread(target=fill, daemon=True)
            thread.start()
            for _ in range(40):
                yield ready.get()
            thread.join()

    loader = Prefetched()
    buffer = BatchBuffer(loader)
    buffer.mark()
    for n_drawn in (5, 9, 7):
        for _ in range(n_drawn):
            buffer.draw()
        buffer.rewind()
    buffer.release()
    expected = np.random.default_rng(0).random(80).tolist()
    assert [buffer.draw() for _ in range(80)] == expected
    assert buffer.roots == []


def test_a_thread_that_is_kept_is_found() -> None:
    class Threaded:
        def __init__(self) -> None:
            self.thread = threading.Thread()
            self.rng = random.Random(0)

    assert Parts.of(Threaded()).has_thread


def test_the_roots_are_samplers() -> None:
    sampler = NumpySampler(np.random.default_rng(1))
    loader = DataLoader(Squares(Noise()), BATCH, sampler=sampler)
    assert BatchBuffer(loader).roots == [sampler, loader.batch_sampler]


def test_weights_that_the_loop_changes_go_back() -> None:
    """Batches stand as the first probe drew them; what the sampler knows of them, and its weights, are the run's."""

    class Prioritised(Sampler[int]):
        def __init__(self) -> None:
            self.weights = torch.ones(1_000)
            self.drawn: list[int] = []

        def __iter__(self) -> Iterator[int]:
            for _ in range(N_SAMPLES):
                self.drawn.append(int(torch.multinomial(self.weights, 1)))
                yield self.drawn[-1] % N_SAMPLES

    sampler = Prioritised()
    buffer = BatchBuffer(sampled(sampler))

    def train(n_steps: int, factor: float) -> list[int]:
        for _ in range(n_steps):
            buffer.draw()
            sampler.weights[sampler.drawn[-1]] *= factor
        return list(sampler.drawn)

    buffer.mark()
    drawn = train(4, 3.0)
    for _ in range(2):
        buffer.rewind()
        assert (sampler.drawn, set(sampler.weights.tolist())) == ([], {1})
        assert train(4, 2.0) == drawn
    buffer.rewind()
    buffer.release()
    assert train(4, 0.5) == drawn
    assert sampler.weights.min() == 0.5
    assert sampler.weights.max() == 1
    assert train(1, 0.5)[: len(drawn)] == drawn


def test_a_run_that_a_loader_refers_to_is_no_part_of_it() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters())

    class Active(NumpySampler):
        def __init__(self) -> None:
            super().__init__(np.random.default_rng(0))
            self.model, self.optimizer = model, optimizer

    owners = Parts.of(sampled(Active())).owners.values()
    assert all(owner is not model and owner is not optimizer for owner in owners)


def test_data_is_not_looked_into() -> None:
    class Holding(Squares):
        def __init__(self) -> None:
            super().__init__()
            self.samples = [Noise() for _ in range(100)]
            self.images = torch.zeros(100, 100)

    state = LoaderState(DataLoader(Holding(), BATCH)).capture_all()
    assert not state.generators
    assert not any("samples" in path or "images" in path for path in state.attributes)


def test_what_never_changed_is_not_in_a_checkpoint() -> None:
    """The process that resumes may have its data elsewhere."""

    class Located(Squares):
        def __init__(self, root: str) -> None:
            super().__init__()
            self.root, self.n_read = root, 0

        def __getitem__(self, index: int) -> torch.Tensor:
            self.n_read += 1
            return super().__getitem__(index)

    first = BatchBuffer(DataLoader(Located("here"), BATCH))
    first.mark()
    first.draw()
    dataset = Located("there")
    second = BatchBuffer(DataLoader(dataset, BATCH))
    second.load_state_dict(saved(first.state_dict()))
    assert (dataset.root, dataset.n_read) == ("there", 2)
    second.rewind()
    assert (dataset.root, dataset.n_read) == ("there", 0)


def test_undo_puts_the_parts_back() -> None:
    sampler = ReseededSampler()
    buffer = BatchBuffer(sampled(sampler))
    first = sampler.rng.bit_generator.state
    generator = sampler.rng
    for _ in range(9):
        buffer.draw()
    buffer.undo()
    assert sampler.state == {"epoch": 0, "history": []}
    assert generator.bit_generator.state == first


@pytest.mark.parametrize(
    "value",
    [
        3,
        None,
        "text",
        b"bytes",
        1 + 2j,
        float("nan"),
        [1, 2, [3.0, "x"]],
        (1, (2, None)),
        {"a": [1], 3: {"b": True}},
        {1, 2},
        frozenset("a"),
        collections.deque([1, 2], maxlen=2),
        torch.arange(3),
        np.arange(3.0, dtype=np.float32),
        np.float64(0.1),
    ],
    ids=str,
)
def test_plain_values_come_back_from_a_checkpoint(value: Any) -> None:
    copy = plain_copies.copied(value, 100)
    back = plain_copies.decoded(saved(plain_copies.encoded(copy)))
    assert type(back) is type(value)
    assert str(back) == str(value)


@pytest.mark.parametrize(
    "value", [object(), [object()], torch.zeros(2, 2), torch.zeros(200), list(range(200)), {1: {2: object()}}]
)
def test_other_values_are_opaque(value: Any) -> None:
    assert plain_copies.copied(value, 100) is plain_copies.OPAQUE
