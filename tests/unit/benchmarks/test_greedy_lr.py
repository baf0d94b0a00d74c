from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality.greedy_lr import GreedyLr, GreedySettings

VECTORS = json.loads((Path(__file__).parents[2] / "data/methods/greedy_lr.json").read_text())


def _lrs(rule: GreedyLr, losses: list[float]) -> list[float]:
    lrs = []
    for loss in losses:
        rule.observe(loss)
        lrs.append(rule.lr(0))
    return lrs


def test_it_follows_its_vectors() -> None:
    own = dict(VECTORS["settings"])
    rule = GreedyLr(own.pop("lr"), GreedySettings(**own))
    assert _lrs(rule, VECTORS["metrics"]) == pytest.approx(VECTORS["lr"], rel=1e-9)


def test_with_the_defaults_eleven_improvements_in_a_row_raise_the_lr_and_eleven_failures_lower_it() -> None:
    rule = GreedyLr(0.1)
    assert _lrs(rule, [1 / n for n in range(1, 12)]) == pytest.approx([0.1] * 10 + [0.1 / 0.95])
    assert _lrs(rule, [1.0] * 11) == pytest.approx([0.1 / 0.95] * 10 + [0.1])


def test_the_lr_stays_between_its_ends() -> None:
    assert set(_lrs(GreedyLr(1.0), [1 / n for n in range(1, 40)])) == {1.0}
    assert _lrs(GreedyLr(1e-3), [1.0] * 40) == [1e-3] * 40
    below_the_lowest = GreedyLr(1e-4)
    assert _lrs(below_the_lowest, [1.0] * 40) == [1e-4] * 40


def test_without_a_lowest_lr_a_low_lr_is_lowered() -> None:
    assert _lrs(GreedyLr(1e-4, GreedySettings(min_lr=0.0)), [1.0] * 12)[-1] == pytest.approx(0.95e-4)


def test_smoothed_losses_are_means_of_the_latest() -> None:
    # The means of three are 4, 3, 2.33, 3.33, 2.67, 2.33: the fourth and the fifth are no improvements.
    rule = GreedyLr(0.1, GreedySettings(factor=0.5, patience=1, smoothed=3))
    assert _lrs(rule, [4, 2, 1, 7, 0, 0]) == pytest.approx([0.1, 0.2, 0.2, 0.2, 0.1, 0.1])


def test_after_so_many_reductions_at_the_lowest_lr_all_begins_again() -> None:
    rule = GreedyLr(0.5, GreedySettings(factor=0.5, patience=0, min_lr=0.25, n_before_reset=3))
    # The first loss is an improvement on nothing.
    assert _lrs(rule, [1.0, 1.0, 1.0, 1.0, 1.0]) == [1.0, 0.5, 0.25, 0.25, 0.5]
    assert _lrs(rule, [1.0, 1.0]) == [1.0, 0.5]
