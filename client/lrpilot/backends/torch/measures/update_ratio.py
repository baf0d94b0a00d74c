"""How much an update changes the weights, relative to their size, where that is most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lrpilot.backends.measures import UPDATE_RATIO
from lrpilot.backends.torch.measures.direction import Direction
from lrpilot.backends.torch.measures.measure import UpdateMeasure


class UpdateRatio(UpdateMeasure):
    """The root mean square of an update over that of the weights after it, in the tensor where that is largest.

    Vectors count only where there are no matrices: biases begin at zero, where the first update is all that there is.
    """

    name = UPDATE_RATIO

    def take(self, direction: Direction) -> torch.Tensor:
        """The largest ratio among an optimizer's parameters; NaN where it has none."""
        matrices = any(view.dim() > 1 for part in direction.parts for view in part.views)
        ratios: list[torch.Tensor] = []
        for part in direction.parts:
            norms, weights = torch._foreach_norm(part.views, 2), direction.norms_of_weights(part)
            own = torch._foreach_div(norms, list(weights))
            ratios += [
                ratio
                for ratio, view in zip(own, part.views, strict=True)
                if view.numel() and (view.dim() > 1 or not matrices)
            ]
        if not ratios:
            return torch.full((), math.nan)
        return torch.stack([ratio.to(ratios[0].device, non_blocking=True) for ratio in ratios]).max()

    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The largest of all."""
        return values[0] if len(values) == 1 else torch.stack(list(values)).max()
