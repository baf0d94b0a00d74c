"""How close runs that change on the way come to those of an oracle that knew all of it.

    python -m benchmarks.onthefly --json onthefly.json
    python -m benchmarks.onthefly --json onthefly.json --quick

Trains what the caches lack, then reports on all of it.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.onthefly.plan import Plan
from benchmarks.onthefly.runs import run_missing
from benchmarks.onthefly.scenarios import QUICK_SCENARIOS, SCENARIOS
from benchmarks.quality.__main__ import STORED as QUALITY
from benchmarks.quality.__main__ import load
from benchmarks.quality.results import ResultFile

FULL = Plan(SCENARIOS, n_steps=4000, n_seeds=3)
QUICK = Plan(QUICK_SCENARIOS, n_steps=1000, n_seeds=1)
STORED = Path(__file__).parent / "data" / "runs.jsonl"
# Runs without a change are those of `benchmarks.quality`, where it has them.
FULL_CACHES = [Path("out/bench/onthefly.jsonl"), STORED, QUALITY]
QUICK_CACHES = [Path("out/bench/onthefly-quick.jsonl")]


def main() -> None:
    import sys

    plan = QUICK if "--quick" in sys.argv else FULL
    caches = QUICK_CACHES if "--quick" in sys.argv else FULL_CACHES
    caches[0].parent.mkdir(parents=True, exist_ok=True)
    run_missing(plan, lambda: load(caches), ResultFile(caches[0]), 1)


if __name__ == "__main__":
    main()
