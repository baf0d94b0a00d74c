"""The L2 norm of all gradients together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lrpilot.backends.measures import GRADIENT_NORM
from lrpilot.backends.torch.measures.gradients import Gradients
from lrpilot.backends.torch.measures.measure import GradientMeasure, norm_of


class GradientNorm(GradientMeasure):
    """The norm of what the optimizer sees: unscaled, and after clipping."""

    name = GRADIENT_NORM

    def take(self, gradients: Gradients) -> torch.Tensor:
        """The norm over an optimizer's parameters; zero, as PyTorch says, where none has a gradient."""
        norms: list[torch.Tensor] = []
        for kind, own in gradients.norms.items():
            norms += own if kind.n_shards == 1 else torch._foreach_mul(own, math.sqrt(kind.n_shards))
        if not norms:
            return torch.zeros((), device=gradients.device)
        return gradients.unscaled(norm_of(gradients.here(norms)))

    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The norm of all."""
        return norm_of(values)
