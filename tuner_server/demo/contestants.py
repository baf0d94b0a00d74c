"""Who takes part, and on what terms. To add a contestant, add a line to `CONTESTANTS`."""

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
"""The usual first choice for SGD with momentum and BatchNorm. It was not tuned, for no contestant."""
LR_BOUNDS = (1e-4, 1.0)
"""The LRs between which a tuner searches: four decades, as someone would give who does not know."""
BASE_LR_NOTE = (
    f"The schedules peak at the LR {BASE_LR:g} that a user would set, without a sweep; "
    f"a tuner searches between {LR_BOUNDS[0]:g} and {LR_BOUNDS[1]:g}."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Tuned:
    """A run under a policy; its schedule is kept as `artifact`.json and .png."""

    policy: str
    artifact: str


@dataclasses.dataclass(frozen=True, slots=True)
class Scheduled:
    """A run that follows a shape from `BASE_LR` over all its steps."""

    shape: str
    end_lr: float


CONTESTANTS: dict[str, Tuned | Scheduled] = {
    "autolrs": Tuned("autolrs", "schedule"),
    "budget": Tuned("budget", "schedule-budget"),
    "constant": Scheduled("constant", BASE_LR),
    "cosine": Scheduled("cosine", 0.0),
    "linear decay": Scheduled("linear", 0.0),
}
"""The contestants by name, in the order in which they run."""
