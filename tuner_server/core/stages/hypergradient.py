"""Hypergradient descent: the LR moves against the derivative of the loss by it.

Baydin, Cornish, Martinez Rubio, Schmidt, Wood 2018, "Online learning rate adaptation with hypergradient descent", ICLR
2018, arXiv 1703.04782, equations 4 to 8.

Notation: g_t, the gradient at step t; u_t, the direction that step t subtracts from the weights per unit of LR (with
momentum, Nesterov's or Adam: that of the optimizer); h_t = <g_t, u_(t-1)>, minus the derivative of the loss at step t
by the LR of step t - 1.

    additive        lr_t = lr_(t-1) + beta h_t
    multiplicative  lr_t = lr_(t-1) (1 + rate h_t / (|g_t| |u_(t-1)|))
    scaled          the additive one with beta = rate lr_0 / mean |g|^2

beta has the unit of an LR over a squared gradient, so that no value of it suits all runs; the rate of the others has
none. Nothing in the method keeps the LR from exploding: `Rule` bounds it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence

from tuner_server.core.messages import Lr, Value

STRIDE = 100
"""Steps within which the LR moves by no more than `FURTHEST`."""
FURTHEST = 10.0
"""The factor, up or down."""
MEMORY = 100
"""The mean of the squared gradient norms is over some so many steps, and over all as long as there are fewer."""


class Form(enum.StrEnum):
    """How the LR follows from the products."""

    MULTIPLICATIVE = "multiplicative"
    SCALED = "scaled"
    ADDITIVE = "additive"


def additive(lr: float, beta: float, product: float) -> float:
    """The LR after one product: equation 5 of the paper, the product being minus the derivative."""
    return lr + beta * product


def multiplicative(lr: float, rate: float, cosine: float) -> float:
    """The LR after one cosine of the gradient and the direction before it."""
    return lr * (1.0 + rate * cosine)


def cosine(product: float, one_norm: float, other_norm: float) -> float:
    """The cosine of two vectors, from their product and their norms; NaN where it can't be told."""
    norms = one_norm * other_norm
    if not (math.isfinite(product) and math.isfinite(norms) and norms > 0):
        return math.nan
    return min(max(product / norms, -1.0), 1.0)


class Adapted(Value):
    """An LR that was adapted, and what its next move depends on."""

    lr: Lr
    anchor: Lr
    """The LR at the beginning of the stride."""
    steps: int = 0
    """Steps so far whose product was known."""
    square: float = 0.0
    """The mean of the squared gradient norms."""

    @classmethod
    def begin(cls, lr: float) -> Adapted:
        """An LR that was not moved yet."""
        return cls(lr=lr, anchor=lr)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """How an LR is adapted.

    Attributes:
        form: how it follows from the products.
        rate: beta of the additive form, and the rate of the others.
        base_lr: the LR that the run began with, lr_0.
        low: the lowest LR.
        high: the highest LR.
    """

    form: Form
    rate: float
    base_lr: float
    low: float
    high: float

    def after(
        self,
        adapted: Adapted,
        products: Sequence[float],
        gradient_norms: Sequence[float] = (),
        update_norms: Sequence[float] = (),
    ) -> Adapted:
        """The LR after some steps; one without a product moves nothing.

        Args:
            adapted: before them.
            products: h_t, one a step.
            gradient_norms: |g_t|; the additive form needs none.
            update_norms: |u_(t-1)|; only the multiplicative form needs them.
        """
        norms = gradient_norms or [math.nan] * len(products)
        others = update_norms or [math.nan] * len(products)
        for product, norm, other in zip(products, norms, others, strict=True):
            adapted = self._moved(adapted, product, norm, other)
        return adapted

    def _moved(self, adapted: Adapted, product: float, norm: float, other: float) -> Adapted:
        steps, square = adapted.steps + 1, adapted.square
        if math.isfinite(norm):
            square += (norm**2 - square) / min(steps, MEMORY)
        lr = self._wanted(adapted.lr, product, cosine(product, norm, other), square)
        if not math.isfinite(lr):
            return adapted
        lr = min(max(lr, adapted.anchor / FURTHEST, self.low), adapted.anchor * FURTHEST, self.high)
        anchor = lr if steps % STRIDE == 0 else adapted.anchor
        return Adapted(lr=lr, anchor=anchor, steps=steps, square=square)

    def _wanted(self, lr: float, product: float, agreement: float, square: float) -> float:
        if self.form is Form.MULTIPLICATIVE:
            return multiplicative(lr, self.rate, agreement)
        if self.form is Form.ADDITIVE:
            return additive(lr, self.rate, product)
        return additive(lr, self.rate * self.base_lr / square, product) if square > 0 else math.nan
