"""What the local steps of a round change, and how that agrees with the step before and with the last global update."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lrpilot.backends.measures import LOCAL_BEFORE_NORM, LOCAL_MEASURES, LOCAL_NORM, LOCAL_PRODUCT, LOCAL_ROUND_PRODUCT
from lrpilot.backends.torch.federation.global_updates import product_of, single


class LocalUpdates:
    """Measures every step by two copies of the weights. It waits for no device: `read` does."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        """Begins before a step, and copies the weights."""
        self._parameters = list(parameters)
        self._before: list[torch.Tensor] | None = None
        self._last = self._copy()

    def begin_round(self) -> None:
        """The weights are others, and the next step is the first of a round."""
        self._before, self._last = None, self._copy()

    @torch.no_grad()
    def add(self, step: int, global_update: Sequence[torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """The measures of a local step.

        Args:
            step: counts from 1 in each round.
            global_update: that of the round before; it takes the place of what the first step changed, as in the
                published code. None: there is none.
        """
        now = self._copy()
        change = torch._foreach_sub(now, self._last)
        before = global_update if step == 2 and global_update is not None else self._before
        values = dict.fromkeys(LOCAL_MEASURES, torch.tensor(math.nan))
        values[LOCAL_NORM] = product_of(change, change).sqrt()
        if step > 1 and before is not None:
            values[LOCAL_BEFORE_NORM] = product_of(before, before).sqrt()
            values[LOCAL_PRODUCT] = product_of(change, before)
        if step > 1 and global_update is not None:
            values[LOCAL_ROUND_PRODUCT] = product_of(change, global_update)
        self._before, self._last = list(change), now
        return values

    def _copy(self) -> list[torch.Tensor]:
        return [single(each) for each in self._parameters]


def read(values: Sequence[torch.Tensor | float]) -> list[float]:
    """The numbers of some scalars, which may be on a device; waits for it once."""
    device = next(
        (each.device for each in values if isinstance(each, torch.Tensor) and each.device.type != "cpu"), None
    )
    found: list[float] = torch.stack([torch.as_tensor(each).float().to(device or "cpu") for each in values]).tolist()
    return found
