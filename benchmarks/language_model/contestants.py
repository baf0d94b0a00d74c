"""Who trains the language model: those of `benchmarks.quality`, and our policy without bounds."""

from __future__ import annotations

from benchmarks.quality.contestant import Contestant
from benchmarks.quality.contestants import CONTESTANTS as ALL
from benchmarks.quality.tuners import Variant

REFERENCE = "linear"
OURS = "budget"
OURS_UNBOUNDED = "budget, no bounds"

CONTESTANTS: dict[str, Contestant] = {
    OURS: ALL[OURS],
    OURS_UNBOUNDED: Contestant(OURS_UNBOUNDED, Variant(OURS, bounded=False).run, takes_lr=False),
    REFERENCE: ALL[REFERENCE],
    "prodigy": ALL["prodigy"],
    "schedule_free": ALL["schedule_free"],
}
"""By name, in the order in which they run and are shown."""
