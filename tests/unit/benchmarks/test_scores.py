from __future__ import annotations

import math

import pytest

from benchmarks.quality.scores import score, scores
from tests.support.jobs.quality_runs import curve, key


def test_negative_losses_have_positive_scores_in_the_same_order() -> None:
    low, high = score(curve(-2.0), math.exp), score(curve(-1.0), math.exp)
    assert 0 < low < high
    assert low / high == pytest.approx(math.exp(-1.0))


def test_a_loss_whose_score_no_float_holds_counts_as_a_divergence() -> None:
    assert score(curve(1e4), math.exp) == math.inf


def test_a_diverged_run_has_an_infinite_score_whatever_the_function() -> None:
    assert score(curve(math.inf), lambda _loss: 1.0) == math.inf


def test_workloads_without_a_function_have_no_scores() -> None:
    runs = {key("budget", "easy", 0): curve(2.0), key("budget", "gone", 0): curve(1.0)}
    assert scores(runs, {"easy": lambda loss: 3 * loss}) == {key("budget", "easy", 0): 6.0}
