"""All contestants by name."""

from __future__ import annotations

from benchmarks.onthefly.contestant import Contestant
from benchmarks.onthefly.oracle import ORACLES
from benchmarks.onthefly.shapes import SCHEDULES
from benchmarks.onthefly.tuners import TUNERS

CONTESTANTS: dict[str, Contestant] = {**ORACLES, **SCHEDULES, **TUNERS}
