from __future__ import annotations

import math

from benchmarks.quality.cases import Case
from benchmarks.quality.ruins import Ruins
from tests.support.jobs.quality_runs import key

RUNS = [key("budget", "easy", seed) for seed in range(5)]
HINDSIGHT = {Case("easy", seed, 1000): 2.0 for seed in range(4)} | {Case("easy", 4, 1000): math.inf}


def test_a_run_is_ruined_above_one_and_a_half_times_the_reference() -> None:
    scores = dict(zip(RUNS, (3.0, 3.001, math.inf, 1.0, 100.0), strict=True))
    ruins = Ruins.among(RUNS, scores, HINDSIGHT)
    assert ruins is not None
    # The last has no finite reference.
    assert len(ruins.ratios) == 4
    assert ruins.ruined == [RUNS[2], RUNS[1]]
    assert ruins.worst == RUNS[2]


def test_runs_that_are_missing_do_not_count() -> None:
    ruins = Ruins.among(RUNS, {RUNS[0]: 2.0}, HINDSIGHT)
    assert ruins is not None
    assert ruins.ratios == {RUNS[0]: 1.0}
    assert Ruins.among(RUNS, {}, HINDSIGHT) is None
