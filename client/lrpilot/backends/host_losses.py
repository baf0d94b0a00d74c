"""Losses of a directive that arrive as arrays of any framework, or as numbers.

They are kept as they are, so that a step waits for no device, and converted when somebody looks: a loss is a float32
then, which is what goes over the wire, and `lrpilot.wire.divergence` decides by that value.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from typing import Any

from lrpilot.arguments import loss_number
from lrpilot.wire.divergence import DivergenceWatch


class HostLosses:
    """Collects the losses of steps. The counterpart of `lrpilot.backends.torch.losses.LossBuffer` without PyTorch.

    Looking converts what came since the last look; whoever looks every now and then keeps few arrays alive.
    """

    def __init__(self) -> None:
        self._limit = math.inf
        self._watch = DivergenceWatch()
        self._losses: list[float] = []
        self._pending: list[Any] = []
        self._diverged = False

    def begin(self, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """Starts anew.

        Args:
            limit: losses above it diverge (`lrpilot.wire.divergence`).
            earlier: losses that come before, of a run that is resumed; they show no divergence.
        """
        self._limit = limit
        self._pending.clear()
        self._forget()
        self._losses = list(earlier)
        for loss in self._losses:
            self._watch.sees(loss)

    def append(self, loss: Any) -> None:
        """Adds the loss of a step: an array of one element, which nobody changes any more, or a number.

        Raises:
            ValueError: it is not one number.
        """
        shape = getattr(loss, "shape", None)
        if shape is None:
            loss = loss_number(loss)
        elif math.prod(shape) != 1:
            raise ValueError(f"loss: shape {tuple(shape)} is not a scalar; pass loss.mean()")
        self._pending.append(loss)

    def diverged(self) -> bool:
        """Whether a divergence has been seen since `begin` or `flush`. Waits for the last step."""
        self._convert()
        return self._diverged

    def peek(self) -> list[float]:
        """The losses since `begin` or `flush`, oldest first. Waits for the last step."""
        self._convert()
        return self._losses.copy()

    def flush(self) -> list[float]:
        """The losses as `peek` gives them, which are then forgotten."""
        self._convert()
        losses = self._losses
        self._forget()
        return losses

    def _forget(self) -> None:
        self._losses = []
        self._watch = DivergenceWatch(self._limit)
        self._diverged = False

    def _convert(self) -> None:
        fresh = [_float32(loss) for loss in self._pending]
        self._pending.clear()
        self._losses += fresh
        for loss in fresh:
            self._diverged |= self._watch.sees(loss)


def _float32(loss: Any) -> float:
    """Rounds as a device does: what is too large becomes infinite."""
    scalar = loss.reshape(()) if hasattr(loss, "reshape") else loss
    return ctypes.c_float(float(scalar)).value
