import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lrpilot.backends.torch import losses as losses_module
from lrpilot.backends.torch.losses import AHEAD, SPARE, LossBuffer
from lrpilot.wire.divergence import BAD_LOSSES, first_divergence


def begun(n_steps: int = 8, limit: float = math.inf) -> LossBuffer:
    losses = LossBuffer()
    losses.begin(n_steps, limit)
    return losses


def test_flush_gives_the_losses_in_order_as_float32_and_forgets_them() -> None:
    losses = begun()
    weight = torch.tensor(2.0, requires_grad=True)
    losses.append(weight * 3)
    losses.append(torch.tensor([[0.1]], dtype=torch.float64))
    losses.append(torch.tensor(1.5, dtype=torch.bfloat16))
    losses.append(0.1)
    losses.append(np.float64(0.25))
    assert losses.flush() == [6.0, float(np.float32(0.1)), 1.5, float(np.float32(0.1)), 0.25]
    assert losses.flush() == []


def test_a_loss_is_copied_and_keeps_no_graph() -> None:
    losses = begun()
    loss = torch.ones((), requires_grad=True) * 2
    losses.append(loss)
    with torch.no_grad():
        loss.zero_()
    assert losses.flush() == [2.0]
    assert not losses._losses.requires_grad


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (torch.zeros(32), r"loss: shape \(32,\) is not a scalar; pass loss.mean\(\)"),
        (torch.zeros(0), r"loss: shape \(0,\) is not a scalar"),
        (np.zeros(3), "loss: ndarray is not a scalar"),
        (None, "loss: NoneType is not a scalar"),
    ],
)
def test_what_is_not_one_number_is_refused_and_leaves_no_trace(loss: object, message: str) -> None:
    losses = begun()
    append: Callable[[object], None] = losses.append  # type: ignore[assignment]  # Wrong on purpose.
    with pytest.raises(ValueError, match=message):
        append(loss)
    assert losses.flush() == []


def test_memory_is_used_again_and_does_not_grow() -> None:
    losses = begun(100)
    addresses = set()
    for n_steps in (100, 7, 100):
        losses.begin(n_steps)
        for _ in range(3):
            for step in range(n_steps):
                losses.append(torch.tensor(float(step)))
            addresses.add(losses._losses.data_ptr())
            assert losses.flush() == list(range(n_steps))
    assert len(addresses) == 1


def test_far_more_losses_than_announced_are_an_error() -> None:
    losses = begun(100)
    losses.append(0.0)
    losses.begin(2)
    for _ in range(2 + SPARE):
        losses.append(0.0)
    with pytest.raises(IndexError):
        losses.append(0.0)


floats32 = st.floats(width=32)


@given(st.lists(floats32, max_size=6), st.floats(allow_nan=False) | floats32.filter(math.isfinite))
def test_device_and_host_agree_about_divergence(values: list[float], limit: float) -> None:
    losses = begun(limit=limit)
    for value in values:
        losses.append(value)
    seen = losses.check()
    stored = losses.flush()
    assert seen == (first_divergence(stored, limit) is not None)


@given(st.lists(st.tuples(st.sampled_from([1.0, 3.0, 5.0]), st.booleans()), max_size=30), st.integers(0, 9))
def test_a_row_above_the_limit_counts_across_looks_and_a_resumption(
    steps: list[tuple[float, bool]], resumed: int
) -> None:
    """A loss, and whether one looks after it. Up to the first divergence no more than `resumed` came before."""
    values = [loss for loss, _ in steps]
    at = first_divergence(values, 3.0)
    resumed = min(resumed, len(values), len(values) if at is None else at)
    losses = LossBuffer()
    losses.begin(len(values), 3.0, values[:resumed])
    for i, (loss, looks) in enumerate(steps[resumed:], start=resumed):
        losses.append(loss)
        if looks:
            assert losses.check() == (at is not None and at <= i)
    assert losses.check() == (at is not None)
    assert losses.flush() == values


@pytest.mark.parametrize("limit", [0.1, float(np.float32(0.1)), 1e300, 1e-50, -0.1])
def test_a_limit_that_is_no_float32_divides_as_on_the_host(limit: float) -> None:
    with np.errstate(over="ignore"):
        near = np.float32(limit)
    for loss in (near, np.nextafter(near, np.float32(-1e9)), np.nextafter(near, np.float32(1e9))):
        losses = begun(limit=limit)
        for _ in range(BAD_LOSSES):
            losses.append(loss)
        assert losses.check() == (float(loss) > limit)


def test_a_divergence_is_a_row_of_losses_above_the_limit_or_one_that_is_not_finite() -> None:
    bad = [3.0] * (BAD_LOSSES - 1)
    assert first_divergence([*bad, 2.0, *bad, 2.0], limit=2.0) is None
    assert first_divergence([1.0, *bad, 3.0, 1.0], limit=2.0) == BAD_LOSSES
    assert first_divergence([1.0, -math.inf, math.nan]) == 1
    assert first_divergence([]) is None


class Arrival:
    """A place in the work of a device that is never idle: it remembers who has waited for it, and when."""

    waits: list[int]
    n_steps = 0

    def __init__(self) -> None:
        self.placed = Arrival.n_steps

    def synchronize(self) -> None:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        Arrival.waits.append(Arrival.n_steps - self.placed)


@pytest.fixture
def running_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that losses are on works on its own."""
    monkeypatch.setattr(losses_module, "runs_ahead", lambda device: True)
    monkeypatch.setattr(losses_module, "mark", lambda device: Arrival())
    Arrival.waits, Arrival.n_steps = [], 0


@pytest.mark.usefixtures("running_ahead")
@pytest.mark.parametrize("every", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("bad", [3, 4, 9])
def test_a_look_answers_for_losses_that_are_some_steps_old_and_waits_for_no_newer_ones(every: int, bad: int) -> None:
    losses = begun(40)
    answers = []
    for step in range(40):
        losses.append(math.nan if step == bad else 1.0)
        Arrival.n_steps = step + 1
        answers.append(losses.check() if (step + 1) % every == 0 else None)
    looked = (bad // every + 1) * every  # after so many steps the loss is first looked at
    expected = [None if n % every else n >= looked + AHEAD for n in range(1, 41)]
    late = (looked + AHEAD + every - 1) // every * every
    assert [answer if answer is None else n >= late for n, answer in enumerate(answers, 1)] == answers
    assert answers[late - 1]
    assert expected == answers
    assert min(Arrival.waits) >= AHEAD


@pytest.mark.usefixtures("running_ahead")
@pytest.mark.parametrize("every", [1, 3])
def test_settled_losses_are_those_of_looks_that_are_some_steps_old(every: int) -> None:
    losses = LossBuffer()
    losses.begin(20, earlier=[9.0])
    for step in range(20):
        losses.append(float(step))
        Arrival.n_steps = step + 1
        if (step + 1) % every == 0:
            old = (step + 1 - AHEAD) // every * every
            assert losses.settled() == [9.0, *map(float, range(old))]
    assert min(Arrival.waits) >= AHEAD
    assert losses.flush() == [9.0, *map(float, range(20))]
    assert losses.settled() == []


def test_on_a_host_all_losses_are_settled() -> None:
    losses = begun()
    for step in range(3):
        losses.append(float(step))
        assert losses.settled() == losses.peek()


@pytest.mark.parametrize("inference", [True, False])
def test_a_step_may_be_made_in_any_mode(inference: bool) -> None:
    """Validation code may call a loop's step; places of losses outlive the mode that they were made in."""
    losses = begun(200)
    weight = torch.ones((), requires_grad=True)
    for step in range(150):
        with torch.inference_mode(inference is (step % 3 == 0)), torch.set_grad_enabled(step % 2 == 0):
            losses.append(weight * step)
    assert losses.flush() == [float(step) for step in range(150)]


@pytest.mark.usefixtures("running_ahead")
def test_a_directive_that_begins_waits_for_no_answer_about_the_one_before() -> None:
    losses = begun(8)
    losses.append(math.nan)
    assert not losses.check()
    losses.begin(8)
    for _ in range(8):
        losses.append(1.0)
        assert not losses.check()


def test_losses_of_updates_that_the_device_has_skipped_are_taken_out() -> None:
    losses = LossBuffer()
    losses.begin(8, limit=2.0, earlier=[0.5])
    for loss, overflow in ((1.0, 0.0), (math.inf, 1.0), (math.nan, 1.0), (1.5, 0.0)):
        losses.append(torch.tensor(loss), torch.tensor(overflow))
    assert not losses.check()
    assert losses.peek() == [0.5, 1.0, 1.0, 1.0, 1.5]
    assert losses.forget_skipped() == [2, 3]
    assert losses.forget_skipped() == []
    losses.append(torch.tensor(math.nan), torch.tensor(0.0))
    assert losses.check()
    assert losses.flush()[:3] == [0.5, 1.0, 1.5]


def test_where_nothing_can_be_skipped_nothing_is_read() -> None:
    losses = begun()
    losses.append(1.0)
    assert losses.forget_skipped() == []
    assert losses.flush() == [1.0]


def test_looks_keep_nothing_of_each_loss() -> None:
    buffer = LossBuffer()
    buffer.begin(12_000)
    loss = torch.tensor(1.0)

    def go_on(n_steps: int) -> None:
        for step in range(n_steps):
            buffer.append(loss)
            if step % 50 == 0:
                buffer.check()

    go_on(1000)  # what is made once is there
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        go_on(10_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000
