"""What an optimizer's last update subtracted from its weights, whatever the optimizer.

Notation: the difference is the weights before an update less those after it; the direction is the difference divided
by the LR.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from lrpilot.backends.torch.measures.gradients import BELOW_SINGLE, Kind, own_part, parameters_of


@dataclasses.dataclass(slots=True)
class Differences:
    """The differences of some tensors of one kind, one after the other, in single precision at least."""

    kind: Kind
    memory: torch.Tensor
    views: list[torch.Tensor]
    """One for each tensor, in its shape."""
    places: list[int]
    """The number of each tensor among the optimizer's parameters."""


class Direction:
    """Keeps one copy of an optimizer's weights: before an update these are in it, and after it the differences.

    `open` comes before an update, and `close` after it. What is read of the update before is read before `open`.
    """

    def __init__(self) -> None:
        """Nothing is known yet, and nothing is allocated."""
        self.parts: list[Differences] = []
        self.lr: float | torch.Tensor = 0.0
        """What differences are to be divided by; NaN: a fused optimizer may have left this update out."""
        self.weights: list[torch.Tensor] = []
        """What lies in this process of the optimizer's parameters, when it was last opened."""
        self._known = False
        self._layout: list[tuple[Kind, torch.Size]] = []

    @property
    def known(self) -> bool:
        """Whether there are differences; they may be taken once (`take_product` spoils them)."""
        return self._known

    def forget(self) -> None:
        """Has no differences from here on, as after a rollback; the memory stays."""
        self._known = False

    def open(self, optimizer: torch.optim.Optimizer) -> None:
        """Copies the weights, which an update is about to change."""
        self._known = False
        parts = [own_part(parameter) for parameter in parameters_of(optimizer)]
        self.weights = [tensor for tensor, _ in parts]
        layout = [(Kind(tensor.device, tensor.dtype, n), tensor.shape) for tensor, n in parts]
        if layout != self._layout:
            self.parts = [_differences(kind, layout) for kind in dict.fromkeys(kind for kind, _ in layout)]
            self._layout = layout
        for part in self.parts:
            torch._foreach_copy_(part.views, self._weights_of(part), non_blocking=True)

    def close(self, optimizer: torch.optim.Optimizer, lr: Any) -> None:
        """Takes the differences that an update has made, at an LR, which may be a tensor."""
        for part in self.parts:
            torch._foreach_sub_(part.views, self._weights_of(part))
        overflow = getattr(optimizer, "found_inf", None)
        self.lr = lr.detach().clone() if isinstance(lr, torch.Tensor) else float(lr)
        if overflow is not None:
            self.lr = torch.where(overflow > 0, torch.nan, self.lr)
        self._known = True

    def norms_of_weights(self, part: Differences) -> Sequence[torch.Tensor]:
        """The L2 norms of the weights that a part's differences are those of, as they are now."""
        single = torch.float32 if part.kind.dtype in BELOW_SINGLE else None
        return torch._foreach_norm(self._weights_of(part), 2, dtype=single)

    def take_product(self, part: Differences, gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """The sum of a part's differences, each multiplied by its gradient. They are lost by that.

        Args:
            part: of this direction.
            gradients: of all of the optimizer's parameters, as they lie in this process; None: there is none.
        """
        self._known = False
        given = [gradients[place] for place in part.places]
        without = [view for view, gradient in zip(part.views, given, strict=True) if gradient is None]
        views = [view for view, gradient in zip(part.views, given, strict=True) if gradient is not None]
        if without:
            torch._foreach_zero_(without)
        if views:
            torch._foreach_mul_(views, [gradient for gradient in given if gradient is not None])
        return part.memory.sum()

    def _weights_of(self, part: Differences) -> list[torch.Tensor]:
        return [self.weights[place] for place in part.places]


def _differences(kind: Kind, layout: Sequence[tuple[Kind, torch.Size]]) -> Differences:
    """Memory for all tensors of a kind."""
    places = [place for place, (own, _) in enumerate(layout) if own == kind]
    shapes = [layout[place][1] for place in places]
    dtype = torch.float32 if kind.dtype in BELOW_SINGLE else kind.dtype
    with torch.inference_mode(False):
        memory = torch.empty(sum(shape.numel() for shape in shapes), dtype=dtype, device=kind.device)
    pieces = torch.split(memory, [shape.numel() for shape in shapes])
    views = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return Differences(kind, memory, views, places)
