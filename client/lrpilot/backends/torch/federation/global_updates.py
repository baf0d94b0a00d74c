"""The rounds of one client: what it has changed, what the clients have agreed on, and how that is taken on.

Notation: D_t, the global update of round t; M_t = D_t + 0.9 M_(t-1); the start, the weights that a round began with.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lrpilot.backends.measures import ROUND_MEASURES, ROUND_MOMENTUM_NORM, ROUND_MOMENTUM_PRODUCT, ROUND_NORM
from lrpilot.backends.measures import ROUND_PRODUCT as PRODUCT
from lrpilot.errors import ConfigError

MOMENTUM = 0.9
"""What is left of M after a round."""

Average = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
"""The federation's transport: takes this client's updates, and gives their mean over the clients."""

log = logging.getLogger("lrpilot")


class GlobalUpdates:
    """Averages the weights of a client with the others', round by round.

    Averaged are the parameters and the floating-point buffers; norms and products are those of the parameters alone,
    and so is what moves by another factor than one.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], buffers: Sequence[torch.Tensor], average: Average) -> None:
        """Begins the first round with the weights as they are."""
        self._weights = [*parameters, *buffers]
        self._n_parameters = len(parameters)
        self._average = average
        self._start = [each.detach().clone() for each in self._weights]
        self._update: list[torch.Tensor] | None = None
        self._momentum: list[torch.Tensor] | None = None
        self._taken = True
        self.n_rounds = 0
        """Rounds that have ended."""
        self.factor = 1.0
        """What the last global update was taken on with."""

    @property
    def update(self) -> list[torch.Tensor] | None:
        """The last global update of the parameters, D_(t-1) within round t; None: there is none, or it is zero."""
        return None if self._update is None else self._update[: self._n_parameters]

    @torch.no_grad()
    def end(self) -> dict[str, float]:
        """Ends a round: averages the clients' updates, and takes the mean on as it is. Waits for the other clients.

        Returns:
            The round's measures, by name; NaN where there was no round before.

        Raises:
            Exception: what the average raises.
            ValueError: what it gives are no such updates.
        """
        self.begin()
        local = [single(now) - single(start) for now, start in zip(self._weights, self._start, strict=True)]
        if not _finite(local):
            log.warning("lrpilot: this client's update is not finite, so it adds nothing to round %d", self.n_rounds)
            local = [torch.zeros_like(each) for each in local]
        update = self._agreed(local)
        values = dict.fromkeys(ROUND_MEASURES, math.nan)
        if _finite(update):
            values = self._measured(update)
        else:
            log.warning("lrpilot: the global update of round %d is not finite, and left out", self.n_rounds)
            update = [torch.zeros_like(each) for each in update]
        self._update, self._taken, self.factor = update, False, 1.0
        self.n_rounds += 1
        self.go_back()
        return values

    @torch.no_grad()
    def take(self, factor: float, momentum: float) -> None:
        """Takes the last global update on otherwise: start + factor D_t + momentum M_(t-1); once, before any step."""
        if not self._taken:
            self._start_from(self._moved(factor, momentum))
            self.factor = factor
            self.go_back()

    @torch.no_grad()
    def begin(self) -> None:
        """Notes that a round has begun: the update before it was taken on as it is, unless something else was said."""
        if not self._taken:
            self._start_from(self._moved(1.0, 0.0))

    @torch.no_grad()
    def go_back(self) -> None:
        """Has the weights be those that this round begins with."""
        begins = self._start if self._taken else self._moved(1.0, 0.0)
        for weights, start in zip(self._weights, begins, strict=True):
            weights.copy_(start)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        lists = {"start": self._start, "update": self._update, "momentum": self._momentum}
        copies = {
            name: None if tensors is None else [each.clone() for each in tensors] for name, tensors in lists.items()
        }
        return copies | {"taken": self._taken, "n_rounds": self.n_rounds, "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint. Raises: ConfigError: it is of another model."""
        shapes = [each.shape for each in self._weights]
        if [each.shape for each in state["start"]] != shapes:
            raise ConfigError("state: the rounds of its federation are those of another model")
        for name in ("start", "update", "momentum"):
            tensors = state[name]
            placed = None if tensors is None else [t.to(w.device) for t, w in zip(tensors, self._weights, strict=False)]
            setattr(self, f"_{name}", placed)
        self._taken, self.n_rounds, self.factor = state["taken"], state["n_rounds"], state["factor"]

    def _start_from(self, weights: Sequence[torch.Tensor]) -> None:
        """Has the present round begin with these weights."""
        for start, own in zip(self._start, weights, strict=True):
            start.copy_(own)
        self._taken = True

    def _moved(self, factor: float, momentum: float) -> list[torch.Tensor]:
        """The weights that the last round began with, and so much of what came of it."""
        assert self._update is not None
        moved = []
        for number, (start, update) in enumerate(zip(self._start, self._update, strict=True)):
            is_parameter = number < self._n_parameters
            new = single(start) + (factor if is_parameter else 1.0) * update
            if is_parameter and momentum and self._momentum is not None:
                new += momentum * self._momentum[number]
            moved.append(new)
        return moved

    def _agreed(self, local: list[torch.Tensor]) -> list[torch.Tensor]:
        """What the clients have agreed on."""
        agreed = list(self._average([each.clone() for each in local]))
        if [each.shape for each in agreed] != [each.shape for each in local]:
            raise ValueError(
                f"average: it gave {len(agreed)} tensors of other shapes than the {len(local)} that it was given; it "
                "has to give the mean of each over the clients, in the same order"
            )
        return [each.detach().to(own.device, own.dtype) for each, own in zip(agreed, local, strict=True)]

    def _measured(self, update: list[torch.Tensor]) -> dict[str, float]:
        """The measures of a round; M is brought up to the round before."""
        n, before = self._n_parameters, self.update
        if before is not None:
            pairs = zip(before, self._momentum or [torch.zeros_like(each) for each in before], strict=True)
            self._momentum = [each + MOMENTUM * sum_before for each, sum_before in pairs]
        own, momentum = update[:n], self._momentum
        return {
            ROUND_NORM: math.sqrt(float(product_of(own, own))),
            PRODUCT: math.nan if before is None else float(product_of(own, before)),
            ROUND_MOMENTUM_NORM: math.nan if momentum is None else math.sqrt(float(product_of(momentum, momentum))),
            ROUND_MOMENTUM_PRODUCT: math.nan if momentum is None else float(product_of(own, momentum)),
        }


def product_of(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> torch.Tensor:
    """The inner product of two lists of tensors; on their device, in double precision where that has it."""
    products = torch._foreach_mul(list(one), list(other))
    wide = torch.float32 if products and products[0].device.type == "mps" else torch.float64
    return torch.stack([each.sum(dtype=wide) for each in products]).sum() if products else torch.zeros(())


def single(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in single precision at least."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def _finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether all values are numbers; waits for the device."""
    return all(bool(each.isfinite().all()) for each in tensors)
