"""Who takes part, and on what terms."""

from __future__ import annotations

import dataclasses

BATCH_SIZE = 64
MAX_SHIFT = 2
"""How far a training image is shifted along either axis, in pixels; the digits keep a margin of four."""
N_TUNING = 500
"""Images for the tuner's validations: few, since a policy may look at them some hundred times in a run."""
N_VALIDATION = 1000
"""Images for the final figures."""
BASE_LR = 0.1
"""What the optimizer is made with in a tuned run: the usual first choice for SGD with momentum. It was not tuned."""
LR_BOUNDS = (1e-4, 1.0)
"""The LRs between which a tuner searches: four decades, as someone would give who does not know."""
GUESSES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""The LRs that somebody would try by hand, each for a whole run."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tuned:
    """A run under a policy; its schedule is kept as `artifact`.json and .png."""

    policy: str
    artifact: str


@dataclasses.dataclass(frozen=True, slots=True)
class Decayed:
    """A run whose LR falls from a guess to zero along a line."""

    lr: float


Contestant = Tuned | Decayed
BUDGET, AUTOLRS = "budget", "autolrs"


def contestants(*, with_autolrs: bool) -> dict[str, Contestant]:
    """The contestants by name, in the order in which they run.

    Args:
        with_autolrs: whether the published AutoLRS takes part.
    """
    tuned: dict[str, Contestant] = {BUDGET: Tuned("budget", "schedule")}
    if with_autolrs:
        tuned[AUTOLRS] = Tuned("autolrs", "schedule-autolrs")
    return tuned | {f"linear from {lr:g}": Decayed(lr) for lr in GUESSES}
