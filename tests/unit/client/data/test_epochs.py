"""Every kind of loader, interrupted: the rest must come out as if it had not been."""

from __future__ import annotations

import io
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from lrpilot.data.epochs import Epochs
from lrpilot.rng import RandomState
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torchdata.stateful_dataloader import StatefulDataLoader

# torchdata 0.11 calls it whenever a StatefulDataLoader is made.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

N_SAMPLES, BATCH, PER_EPOCH = 11, 2, 6  # The last batch of an epoch is uneven.


class Squares(Dataset[torch.Tensor]):
    """As they are."""

    def __len__(self) -> int:
        return N_SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index), float(index**2)])


class Augmented(Squares):
    """With noise of all three global generators of the process that loads it."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) + torch.rand(2) + random.random() + float(np.random.rand())


class Stream(IterableDataset[int]):
    """Counts, each worker its own residue class."""

    def __init__(self, n_samples: int | None) -> None:
        self.n_samples = n_samples

    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return iter(range(first, self.n_samples, step)) if self.n_samples else itertools.count(first, step)


class ResumableStream(Stream):
    """A stream that keeps its place, as those of Hugging Face's datasets do."""

    def __init__(self, n_samples: int) -> None:
        super().__init__(n_samples)
        self.next_index = 0
        self.n_produced = 0

    def __iter__(self) -> Iterator[int]:
        while self.next_index < (self.n_samples or 0):
            self.next_index += 1
            self.n_produced += 1
            yield self.next_index - 1
        self.next_index = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next_index": self.next_index}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next_index = state["next_index"]


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def step(epochs: Epochs[Any]) -> tuple[Any, ...]:
    """A batch, and what the model draws."""
    batch = epochs.draw()
    return batch.tolist() if isinstance(batch, torch.Tensor) else batch, torch.rand(2).tolist(), random.random()


def saved(state: Any) -> Any:
    """What a checkpoint file gives back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_resumes(make_loader: Callable[[], Any], stops: tuple[int, ...] = (4, PER_EPOCH, PER_EPOCH + 2)) -> None:
    """Stops in the first and the second epoch and between them, and compares up to the third."""
    seed(1)
    first, expected, states = Epochs(make_loader()), [], {}
    for n_steps in range(max(stops) + PER_EPOCH + 1):
        if n_steps in stops:
            states[n_steps] = saved({"epochs": first.state_dict(), "random_state": RandomState.capture().state_dict()})
        expected.append(step(first))
    for stop in stops:
        seed(2)  # Another process: other seeds, also where the loader takes one as it is made.
        second = Epochs(make_loader())
        second.load_state_dict(states[stop]["epochs"])
        RandomState.from_state_dict(states[stop]["random_state"]).restore()
        assert [step(second) for _ in expected[stop:]] == expected[stop:], f"stopped after {stop}"


WORKERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
]
NAMES = ["in-process", "workers", "persistent"]
every_kind_of_workers = pytest.mark.parametrize("options", WORKERS, ids=NAMES)
# Starting workers anew for every epoch takes the time of these tests; it is left to where it can make a difference.
few_workers = pytest.mark.parametrize("options", WORKERS[::2], ids=NAMES[::2])
kinds = pytest.mark.parametrize("kind", [DataLoader, StatefulDataLoader])


@every_kind_of_workers
@kinds
def test_a_shuffled_loader(kind: Any, options: dict[str, Any]) -> None:
    assert_resumes(lambda: kind(Squares(), batch_size=BATCH, shuffle=True, **options))


@few_workers
@kinds
def test_a_users_own_generator(kind: Any, options: dict[str, Any]) -> None:
    """It isn't global random state, and goes on from epoch to epoch."""

    def make() -> Any:
        generator = torch.Generator().manual_seed(7)
        return kind(Squares(), batch_size=BATCH, shuffle=True, generator=generator, **options)

    assert_resumes(make)


@pytest.mark.parametrize("own_generator", [True, False], ids=["own generator", "global random state"])
@kinds
def test_a_sampler_that_keeps_no_state(kind: Any, own_generator: bool) -> None:
    """A StatefulDataLoader begins it again, and skips; it doesn't restore the random state for that."""

    def make() -> Any:
        weights = [1.0 + index for index in range(N_SAMPLES)]
        generator = torch.Generator().manual_seed(7) if own_generator else None
        sampler = WeightedRandomSampler(weights, N_SAMPLES, generator=generator)
        return kind(Squares(), batch_size=BATCH, sampler=sampler)

    assert_resumes(make)


@kinds
def test_a_sampler_with_replacement_that_draws_as_it_goes(kind: Any) -> None:
    def make() -> Any:
        sampler = RandomSampler(Squares(), True, 11, generator=torch.Generator().manual_seed(7))
        return kind(Squares(), batch_size=BATCH, sampler=sampler)

    assert_resumes(make)


@kinds
def test_augmentation_in_this_process(kind: Any) -> None:
    assert_resumes(lambda: kind(Augmented(), batch_size=BATCH, shuffle=True))


def test_augmentation_in_workers() -> None:
    assert_resumes(lambda: DataLoader(Augmented(), batch_size=BATCH, shuffle=True, num_workers=2))


@few_workers
def test_a_finite_stream(options: dict[str, Any]) -> None:
    assert_resumes(lambda: DataLoader(Stream(N_SAMPLES), batch_size=BATCH, **options))


@pytest.mark.parametrize("options", WORKERS[:2], ids=NAMES[:2])
def test_an_infinite_stream(options: dict[str, Any]) -> None:
    assert_resumes(lambda: DataLoader(Stream(None), batch_size=BATCH, **options))


@kinds
def test_a_distributed_sampler(kind: Any) -> None:
    def make() -> Any:
        sampler: DistributedSampler[Any] = DistributedSampler(Squares(), num_replicas=1, rank=0)
        return kind(Squares(), batch_size=BATCH, sampler=sampler)

    assert_resumes(make)


def test_a_list() -> None:
    assert_resumes(lambda: list(range(PER_EPOCH)))


def test_a_distributed_sampler_hears_of_every_epoch() -> None:
    sampler: DistributedSampler[Any] = DistributedSampler(Squares(), num_replicas=1, rank=0)
    loader = DataLoader(Squares(), batch_size=BATCH, sampler=sampler)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected += [batch.tolist() for batch in loader]
    epochs = Epochs(loader)
    assert [epochs.draw().tolist() for _ in expected] == expected
    assert expected[:PER_EPOCH] != expected[PER_EPOCH : 2 * PER_EPOCH]


@pytest.mark.parametrize("place", ["loader", "dataset", "batch_sampler"])
def test_epochs_are_numbered_wherever_one_listens(place: str) -> None:
    heard: list[int] = []

    class Listener(list[int]):
        def set_epoch(self, epoch: int) -> None:
            heard.append(epoch)

    class Loader(Listener if place == "loader" else list[int]):  # type: ignore[misc]  # a choice of base
        pass

    loader = Loader([1, 2])
    if place != "loader":
        setattr(loader, place, Listener())
    epochs = Epochs(loader)
    for _ in range(5):
        epochs.draw()
    state = epochs.state_dict()
    assert heard == [0, 1, 2]
    Epochs(loader).load_state_dict(state)
    assert heard == [0, 1, 2, 2]


def test_a_loader_with_a_state_of_its_own_is_not_drawn_from_to_resume(caplog: pytest.LogCaptureFixture) -> None:
    first = Epochs(ResumableStream(100))
    for _ in range(250):
        first.draw()
    stream = ResumableStream(100)
    second = Epochs(stream)
    with caplog.at_level(logging.INFO, logger="lrpilot.data.epochs"):
        second.load_state_dict(saved(first.state_dict()))
    assert [second.draw() for _ in range(60)] == [*range(50, 100), *range(10)]
    assert stream.n_produced == 60
    assert not caplog.records


def test_skipping_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    first = Epochs(list(range(100)))
    for _ in range(250):
        first.draw()
    with caplog.at_level(logging.INFO, logger="lrpilot.data.epochs"):
        Epochs(list(range(100))).load_state_dict(first.state_dict())
    assert [record.getMessage() for record in caplog.records] == [
        "batches: skipping 50 batches of epoch 2; a loader with state_dict and load_state_dict, such as torchdata's "
        "StatefulDataLoader, would spare this"
    ]


def test_a_state_of_before_the_first_batch_begins_nothing() -> None:
    """To ask a StatefulDataLoader for its state then would start its workers, and draw."""
    loader = StatefulDataLoader(Squares(), shuffle=True)
    before = RandomState.capture()
    state = Epochs(loader).state_dict()
    Epochs(loader).load_state_dict(state)
    assert RandomState.capture().changed_since(before) is None


def test_another_kind_of_loader_is_refused() -> None:
    plain, stateful = Epochs([1, 2, 3]), Epochs(ResumableStream(3))
    plain.draw()
    stateful.draw()
    with pytest.raises(ValueError, match=r"this loader \(ResumableStream\) keeps its own state"):
        Epochs(ResumableStream(3)).load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r"this loader \(list\) does not keep its own state"):
        Epochs([1, 2, 3]).load_state_dict(stateful.state_dict())


def test_a_shorter_loader_is_refused() -> None:
    epochs = Epochs(list(range(9)))
    for _ in range(7):
        epochs.draw()
    with pytest.raises(ValueError, match="7 batches into an epoch, and this loader has fewer"):
        Epochs(list(range(6))).load_state_dict(epochs.state_dict())


@pytest.mark.parametrize("options", WORKERS[:2], ids=NAMES[:2])
def test_a_sample_that_cannot_be_read_raises_and_the_epoch_goes_on(options: dict[str, Any]) -> None:
    class Flawed(Squares):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 3:
                raise OSError("disk")
            return super().__getitem__(index)

    epochs = Epochs(DataLoader(Flawed(), batch_size=BATCH, **options))
    assert epochs.draw()[:, 0].tolist() == [0.0, 1.0]
    with pytest.raises(OSError, match="disk"):
        epochs.draw()
    assert epochs.draw()[:, 0].tolist() == [4.0, 5.0]
