import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from lrpilot.backends.host_losses import HostLosses
from lrpilot.backends.torch.losses import LossBuffer


def begun(limit: float = math.inf) -> HostLosses:
    losses = HostLosses()
    losses.begin(limit)
    return losses


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


@given(st.lists(st.floats(), max_size=6), st.floats(allow_nan=False))
def test_both_kinds_of_losses_agree(values: list[float], limit: float) -> None:
    host, device = begun(limit), LossBuffer()
    device.begin(len(values), limit)
    for value in values:
        host.append(value)
        device.append(value)
    assert host.diverged() == device.check()
    assert np.array_equal(host.flush(), device.flush(), equal_nan=True)
