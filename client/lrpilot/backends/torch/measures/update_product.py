"""The product of the gradients and the direction before: the hypergradient (Baydin et al. 2018, arXiv 1703.04782)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrpilot.backends.measures import UPDATE_PRODUCT
from lrpilot.backends.torch.measures.direction import Direction
from lrpilot.backends.torch.measures.gradients import Gradients, own_part, parameters_of
from lrpilot.backends.torch.measures.measure import DirectionMeasure, sum_of


class UpdateProduct(DirectionMeasure):
    """Minus the derivative of the loss by the LR of the step before. It spoils the direction, so it is taken last."""

    name = UPDATE_PRODUCT

    def take(self, gradients: Gradients, direction: Direction) -> torch.Tensor:
        """The product over an optimizer's parameters."""
        own = [_dense(parameter.grad) for parameter in parameters_of(gradients.optimizer)]
        products = [direction.take_product(part, own) * part.kind.n_shards for part in direction.parts]
        if not products:
            return torch.zeros((), device=gradients.device)
        return gradients.unscaled(sum_of(gradients.here(products)) / direction.lr)

    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum of all."""
        return sum_of(values)


def _dense(gradient: torch.Tensor | None) -> torch.Tensor | None:
    if gradient is None:
        return None
    own, _ = own_part(gradient.to_dense() if gradient.is_sparse else gradient)
    return own
