import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lrpilot.backends.host_losses import HostLosses
from lrpilot.backends.torch.losses import LossBuffer
from lrpilot.wire.divergence import BAD_LOSSES


def begun(limit: float = math.inf) -> HostLosses:
    losses = HostLosses()
    losses.begin(limit)
    return losses


def test_flush_gives_the_losses_in_order_as_float32_and_forgets_them() -> None:
    losses = begun()
    losses.append(np.array([[0.1]]))
    losses.append(torch.tensor(1.5, dtype=torch.bfloat16))
    losses.append(0.1)
    losses.append(2)
    assert losses.peek() == losses.flush() == [float(np.float32(0.1)), 1.5, float(np.float32(0.1)), 2.0]
    assert losses.flush() == []


def test_a_loss_is_not_converted_before_somebody_looks() -> None:
    """A conversion would wait for the device at every step."""

    class OnDevice:
        shape = ()
        waits = 0

        def __float__(self) -> float:
            OnDevice.waits += 1
            return 0.5

    losses = begun()
    for _ in range(5):
        losses.append(OnDevice())
    assert OnDevice.waits == 0
    assert not losses.diverged()
    assert losses.flush() == [0.5] * 5
    assert OnDevice.waits == 5


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (np.zeros(3), r"loss: shape \(3,\) is not a scalar; pass loss.mean\(\)"),
        (torch.zeros(0), r"loss: shape \(0,\) is not a scalar"),
        (None, "loss: NoneType is not a scalar"),
    ],
)
def test_what_is_not_one_number_is_refused_and_leaves_no_trace(loss: object, message: str) -> None:
    losses = begun()
    with pytest.raises(ValueError, match=message):
        losses.append(loss)
    assert losses.flush() == []


@pytest.mark.parametrize("bad", [(math.nan,), (math.inf,), (-math.inf,), (1e39,), (3.1,) * BAD_LOSSES])
def test_a_divergence_is_seen_and_remembered(bad: tuple[float, ...]) -> None:
    losses = begun(limit=3.0)
    losses.append(3.0)
    for loss in bad:
        assert not losses.diverged()
        losses.append(loss)
    losses.append(1.0)
    assert losses.diverged()
    assert losses.diverged()
    assert len(losses.flush()) == 2 + len(bad)
    losses.append(1.0)
    assert not losses.diverged()


def test_a_resumed_run_has_its_earlier_losses() -> None:
    losses = begun()
    losses.append(math.nan)
    losses.begin(earlier=[1.0, 2.0])
    losses.append(3.0)
    assert not losses.diverged()
    assert losses.flush() == [1.0, 2.0, 3.0]


@given(st.lists(st.floats(), max_size=6), st.floats(allow_nan=False))
def test_both_kinds_of_losses_agree(values: list[float], limit: float) -> None:
    host, device = begun(limit), LossBuffer()
    device.begin(len(values), limit)
    for value in values:
        host.append(value)
        device.append(value)
    assert host.diverged() == device.check()
    assert np.array_equal(host.flush(), device.flush(), equal_nan=True)
