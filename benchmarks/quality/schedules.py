"""LR shapes that know the run's length.

Notation: progress ``p`` in [0, 1] is the share of the run that is over; a shape maps it to the LR as a share of the
peak. All shapes share one linear warm-up over the first `WARMUP` of the run; ``q`` in [0, 1] is progress after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Shape = Callable[[float], float]

# Common practice; the same for all, so that shapes differ after the warm-up only.
WARMUP = 0.05

# Share of the run that decays: Hägele et al. 2024 ("Scaling laws and compute-optimal training beyond fixed training
# durations") find that a linear cooldown over 20% of the steps matches cosine.
WSD_DECAY = 0.2


def _constant(_q: float) -> float:
    return 1.0


def _linear(q: float) -> float:
    return 1.0 - q


def _cosine(q: float) -> float:
    """Loshchilov & Hutter 2017 (SGDR), equation 5, without restarts and down to zero."""
    return 0.5 * (1.0 + math.cos(math.pi * q))


def _rex(q: float) -> float:
    """Chen et al. 2021 (REX: revisiting budgeted training with an improved schedule), section 3."""
    return (1.0 - q) / (0.5 + 0.5 * (1.0 - q))


def _step(p: float) -> float:
    """He et al. 2016 (deep residual learning), section 4.2: divided by 10 at 32k and at 48k of 64k steps."""
    if p < 0.5:
        return 1.0
    return 0.1 if p < 0.75 else 0.01


def _wsd(p: float) -> float:
    """Warm-up, stable, decay (Hu et al. 2024, MiniCPM), with a linear decay to zero at the end."""
    return min(1.0, (1.0 - p) / WSD_DECAY)


def _wsd_root(p: float) -> float:
    """Warm-up, stable, decay with 1 - sqrt as its decay, the best of the shapes that Hägele et al. 2024 compare."""
    return 1.0 - math.sqrt(max(0.0, 1.0 - (1.0 - p) / WSD_DECAY))


def _after_warmup(shape: Shape) -> Shape:
    """`shape` stretched over what the warm-up leaves."""
    return lambda p: shape((p - WARMUP) / (1.0 - WARMUP))


def with_floor(shape: Shape, floor: float) -> Shape:
    """`shape` down to a floor instead of zero; the warm-up is as it is."""
    return lambda p: shape(p) if p < WARMUP else floor + (1.0 - floor) * shape(p)


def with_warmup(shape: Shape) -> Shape:
    """`shape`, with the warm-up in place of its beginning."""

    def warmed(p: float) -> float:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"progress must lie in [0, 1], got {p}")
        return p / WARMUP if p < WARMUP else shape(p)

    return warmed


# In the order in which the grid runs them.
SHAPES: dict[str, Shape] = {
    "linear": with_warmup(_after_warmup(_linear)),
    "constant": with_warmup(_constant),
    "cosine": with_warmup(_after_warmup(_cosine)),
    "rex": with_warmup(_after_warmup(_rex)),
    "wsd": with_warmup(_wsd),
    "step": with_warmup(_step),
    "wsd, 1 - sqrt": with_warmup(_wsd_root),
}


def lr_at(shape: Shape, peak_lr: float, step: int, n_steps: int) -> float:
    """LR of step 0 <= `step` < `n_steps`: the shape at the step's middle, so that no step has an LR of zero."""
    return peak_lr * shape((step + 0.5) / n_steps)
