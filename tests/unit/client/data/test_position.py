import random
from collections.abc import Iterator

from lrpilot.data.position import DataPosition
from torch.utils.data import DataLoader, Sampler


class Shuffled(Sampler[int]):
    """Counts its epochs, and shuffles by a generator of its own."""

    def __init__(self) -> None:
        self.rng, self.n_epochs = random.Random(0), 0

    def __iter__(self) -> Iterator[int]:
        self.n_epochs += 1
        return iter(self.rng.sample(range(6), 6))


def test_a_loader_that_is_left_is_as_it_was() -> None:
    """For a framework whose own loop goes on with it."""
    sampler = Shuffled()
    before = sampler.rng.getstate()
    position = DataPosition()
    buffer, begins = position.open(DataLoader(range(6), sampler=sampler))  # type: ignore[arg-type]  # a data set
    assert begins
    for _ in range(9):
        buffer.draw()
    assert sampler.n_epochs == 2
    position.leave()
    assert (sampler.n_epochs, sampler.rng.getstate()) == (0, before)


def test_the_roots_are_the_present_loaders_samplers() -> None:
    position, sampler = DataPosition(), Shuffled()
    assert position.roots == []
    position.open(DataLoader(range(6), sampler=sampler))  # type: ignore[arg-type]  # a data set
    assert sampler in position.roots
