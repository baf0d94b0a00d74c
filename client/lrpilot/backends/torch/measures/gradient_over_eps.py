"""How far gradients are above Adam's eps, below which updates are damped (Wortsman et al. 2023, arXiv 2309.14322)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lrpilot.backends.measures import GRADIENT_OVER_EPS
from lrpilot.backends.torch.measures.gradients import Gradients
from lrpilot.backends.torch.measures.measure import GradientMeasure


class GradientOverEps(GradientMeasure):
    """The median over tensors of the root mean square of their gradients, in units of the eps of their group."""

    name = GRADIENT_OVER_EPS

    def take(self, gradients: Gradients) -> torch.Tensor:
        """The median over an optimizer's parameters; infinity where none has an eps that is above zero."""
        shares: list[torch.Tensor] = []
        for kind, own in gradients.norms.items():
            given = gradients.by_kind[kind]
            chosen = [number for number, (each, eps) in enumerate(given) if eps > 0 and each.numel()]
            if chosen:
                norms = [own[number] for number in chosen]
                units = [1 / (math.sqrt(given[number][0].numel()) * given[number][1]) for number in chosen]
                shares += torch._foreach_mul(norms, units)
        if not shares:
            return torch.full((), math.inf, device=gradients.device)
        return gradients.unscaled(torch.stack(gradients.here(shares)).median())

    def together(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The lowest median of several optimizers."""
        return values[0] if len(values) == 1 else torch.stack(list(values)).min()


def has_eps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer is like Adam, with a group that has an eps."""
    return any("betas" in group and group.get("eps", 0) > 0 for group in optimizer.param_groups)
