import collections
import logging
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lrpilot.replay import BatchBuffer
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
    image, label = torch.zeros(2), torch.ones(2)
    buffer = BatchBuffer([kind({"image": [image], "rest": (label, {"id": 3})})])
    buffer.mark()
    for _ in range(3):
        batch = buffer.draw()
        assert type(batch) is kind
        assert batch["image"].pop() is image
        rest = batch.pop("rest")
        assert rest[0] is label
        assert rest[1].pop("id") == 3
        buffer.rewind()


class Pair(NamedTuple):
    image: list[torch.Tensor]
    label: torch.Tensor


def test_a_namedtuple_keeps_its_type() -> None:
    image, label = torch.zeros(2), torch.ones(2)
    buffer = BatchBuffer([Pair([image], label)])
    buffer.mark()
    for _ in range(3):
        batch = buffer.draw()
        assert type(batch) is Pair
        assert batch.image.pop() is image
        assert batch.label is label
        buffer.rewind()


def test_a_batch_of_a_class_of_its_own_comes_back_as_it_is() -> None:
    class Graph:
        """As those that have a `pin_memory` for the loader to call."""

        def __init__(self, nodes: torch.Tensor) -> None:
            self.nodes = nodes

        def pin_memory(self) -> "Graph":
            return self

    graphs = [Graph(torch.zeros(1)), Graph(torch.ones(1))]
    buffer = BatchBuffer(graphs)
    buffer.mark()
    for _ in range(2):
        assert [buffer.draw(), buffer.draw()] == graphs
        buffer.rewind()


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


def test_tensors_changed_in_place_are_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BatchBuffer([{"x": torch.zeros(2)}])
    buffer.mark()
    with caplog.at_level(logging.WARNING, logger="lrpilot.replay"):
        for _ in range(3):
            buffer.draw()["x"] += 1
            buffer.rewind()
            buffer.draw()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "changes its batches in place" in caplog.text


def test_tensors_that_are_only_read_are_replayed_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with torch.inference_mode():
        inference = torch.zeros(2)
    buffer = BatchBuffer([(torch.zeros(2), inference)])
    buffer.mark()
    for _ in range(3):
        x, y = buffer.draw()
        _ = x - 1, y - 1
        buffer.rewind()
    assert not caplog.records
