"""The L2 norm of the direction of the update before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lrpilot.backends.measures import UPDATE_NORM
from lrpilot.backends.torch.measures.direction import Direction
from lrpilot.backends.torch.measures.gradients import Gradients
from lrpilot.backends.torch.measures.measure import DirectionMeasure, norm_of


class UpdateNorm(DirectionMeasure):
    """The norm of what the update before subtracted, per unit of LR."""

    name = UPDATE_NORM

    def take(self, gradients: Gradients, direction: Direction) -> torch.Tensor:
        """The norm over an optimizer's parameters."""
        norms = [torch.linalg.vector_norm(part.memory) * math.sqrt(part.kind.n_shards) for part in direction.parts]
        if not norms:
            return torch.zeros((), device=gradients.device)
        return norm_of(gradients.here(norms)) / direction.lr

    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The norm of all."""
        return norm_of(values)
