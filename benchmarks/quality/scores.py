"""What runs are compared by: a positive number that grows with the final validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve

ScoreFunction = Callable[[float], float]


def score(curve: Curve, function: ScoreFunction) -> float:
    """`function` of the final validation loss; infinity if the run diverged or the score is too high for a float."""
    if curve.diverged:
        return math.inf
    try:
        return function(curve.final_val_loss)
    except OverflowError:
        return math.inf


def scores(runs: Mapping[RunKey, Curve], functions: Mapping[str, ScoreFunction]) -> dict[RunKey, float]:
    """Scores of the runs of those workloads that have a function."""
    return {key: score(curve, functions[key.workload]) for key, curve in runs.items() if key.workload in functions}
