"""The L1 norm of all gradients together, which schedule refinement needs with Adam (Defazio et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrpilot.backends.measures import GRADIENT_L1_NORM
from lrpilot.backends.torch.measures.gradients import Gradients
from lrpilot.backends.torch.measures.measure import GradientMeasure, sum_of


class GradientL1Norm(GradientMeasure):
    """The sum of the absolute values of what the optimizer sees: unscaled, and after clipping."""

    name = GRADIENT_L1_NORM

    def take(self, gradients: Gradients) -> torch.Tensor:
        """The norm over an optimizer's parameters; zero where none has a gradient."""
        norms: list[torch.Tensor] = []
        for kind, own in gradients.l1_norms().items():
            norms += own if kind.n_shards == 1 else torch._foreach_mul(own, float(kind.n_shards))
        if not norms:
            return torch.zeros((), device=gradients.device)
        return gradients.unscaled(sum_of(gradients.here(norms)))

    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum of all."""
        return sum_of(values)
