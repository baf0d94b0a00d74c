"""LR shapes that know the run's length.

Notation: progress ``p`` in [0, 1] is the share of the run that is over; a shape maps it to the LR as a share of the
peak. All shapes share one linear warm-up over the first `WARMUP` of the run; ``q`` in [0, 1] is progress after it.
"""

from __future__ import annotations

from collections.abc import Callable

from lrpilot import schedules

Shape = Callable[[float], float]

# Common practice; the same for all, so that shapes differ after the warm-up only.
WARMUP = 0.05

# Share of the run that decays: Hägele et al. 2024 ("Scaling laws and compute-optimal training beyond fixed training
# durations") find that a linear cooldown over 20% of the steps matches cosine.
WSD_DECAY = 0.2


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


def _weight(text: str) -> Shape:
    """The shape of a text, on its way to zero."""
    return schedules.Shape.parse(text).weight


# In the order in which the grid runs them. `step` is that of He et al. 2016 (deep residual learning), section 4.2:
# divided by 10 at 32k and at 48k of 64k steps.
SHAPES: dict[str, Shape] = {
    "linear": with_warmup(_after_warmup(_weight("linear"))),
    "constant": with_warmup(_weight("constant")),
    "cosine": with_warmup(_after_warmup(_weight("cosine"))),
    "rex": with_warmup(_after_warmup(_weight("rex"))),
    "wsd": with_warmup(_weight(f"wsd({WSD_DECAY})")),
    "step": with_warmup(_weight("step")),
    "wsd, 1 - sqrt": with_warmup(_weight(f"wsd/one_minus_sqrt({WSD_DECAY})")),
}


def lr_at(shape: Shape, peak_lr: float, step: int, n_steps: int) -> float:
    """LR of step 0 <= `step` < `n_steps`: the shape at the step's middle, so that no step has an LR of zero."""
    return peak_lr * shape((step + 0.5) / n_steps)
