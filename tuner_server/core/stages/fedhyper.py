"""FedHyper: hypergradient descent for federated averaging, where products of updates take the place of gradients'.

Wang, Wang, Li 2024, "FedHyper: a universal and robust learning rate scheduler for federated learning with hypergradient
descent", ICLR 2024, arXiv 2310.03156.

Notation: D_t, the global update of round t: the mean of the clients' updates; M_t = D_t + 0.9 M_(t-1); d_k, what the
local step k of a round changes; P, the clients of a round. The variants, with their bounds:

    G    a_t = a_(t-1) + <D_t, D_(t-1)>, a_0 = 1; weights += a_t D_t                              a in [0.2, 5]
    GM   as G, but from <D_t, M_(t-1)>; weights += a_t D_t + 0.9 (a_t - 1) M_(t-1)                a in [0.8, 5]
    SL   the local LR of all steps: lr_0 (1 + the sum over rounds of <D_i, D_(i-1)>)              a factor of 10
    CL   the local LR within a round, from step 2 on: times min(1.1, 1 + 0.1/P <d_k, D_(t-1)> + <d_k, d_(k-1)>),
         where D_(t-1) takes the place of d_1                                                     a factor of 10

Products have the unit of a squared update. Where that is not wanted, cosines times a rate take their place.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

MOMENTUM = 0.9
"""What is left of M after a round."""
LARGEST_GROWTH = 1.1
"""The factor that a local step of CL raises the LR by, at most."""
GLOBAL_WEIGHT = 0.1
"""The weight of the global update in CL, shared by the clients."""


class Variant(enum.StrEnum):
    """What is adapted: the step of the global update, or the clients' LR; and who says how."""

    G = "g"
    GM = "gm"
    SL = "sl"
    CL = "cl"

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest factor."""
        return BOUNDS[self]


BOUNDS = {
    Variant.G: (0.2, 5.0),
    Variant.GM: (0.8, 5.0),
    Variant.SL: (0.1, 10.0),
    Variant.CL: (0.1, 10.0),
}
"""By the published code; the paper has [1/3, 3] for G."""


def added(factor: float, product: float, bounds: tuple[float, float]) -> float:
    """The factor after a round, by G, GM and SL. A product that is no number leaves it as it is."""
    if not math.isfinite(product):
        return factor
    low, high = bounds
    return min(max(factor + product, low), high)


def momentum_weight(factor: float) -> float:
    """What GM takes M_(t-1) on with."""
    return MOMENTUM * (factor - 1.0)


def multiplied(
    factor: float,
    global_products: Sequence[float],
    local_products: Sequence[float],
    clients: int,
    bounds: tuple[float, float],
) -> float:
    """The factor of the local LR after some local steps, by CL.

    Args:
        factor: before them; 1 at the beginning of a round.
        global_products: <d_k, D_(t-1)>, one a step; a step that has none moves nothing.
        local_products: <d_k, d_(k-1)>.
        clients: P.
        bounds: of the factor.
    """
    low, high = bounds
    for whole, own in zip(global_products, local_products, strict=True):
        growth = 1.0 + GLOBAL_WEIGHT / clients * whole + own
        if math.isfinite(growth):
            factor = min(max(factor * min(growth, LARGEST_GROWTH), low), high)
    return factor
