"""All contestants by name."""

from __future__ import annotations

from benchmarks.onthefly.contestant import Contestant
from benchmarks.onthefly.oracle import ORACLES
from benchmarks.onthefly.shapes import SCHEDULES

CONTESTANTS: dict[str, Contestant] = {**SCHEDULES, **ORACLES}
