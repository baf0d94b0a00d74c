from __future__ import annotations

import pytest

from benchmarks.quality.lr_rules import GreedyLr


def _lrs(rule: GreedyLr, losses: list[float]) -> list[float]:
    lrs = []
    for loss in losses:
        rule.observe(loss)
        lrs.append(rule.lr(0))
    return lrs


def test_it_follows_a_worked_example() -> None:
    """Computed from the description of GreedyLR, apart from this code."""
    rule = GreedyLr(0.1, factor=0.9, patience=2, cooldown=1, warmup=1)
    lrs = _lrs(rule, [5, 4, 3, 2, 1, 1, 1, 1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.7])
    higher = 0.1 / 0.9
    assert lrs == pytest.approx([0.1] * 2 + [higher] * 5 + [0.1] * 5 + [higher] * 3)


def test_with_the_defaults_eleven_improvements_in_a_row_raise_the_lr_and_eleven_failures_lower_it() -> None:
    rule = GreedyLr(0.1)
    assert _lrs(rule, [1 / n for n in range(1, 12)]) == pytest.approx([0.1] * 10 + [0.1 / 0.95])
    assert _lrs(rule, [1.0] * 11) == pytest.approx([0.1 / 0.95] * 10 + [0.1])


def test_the_lr_stays_between_its_ends() -> None:
    assert set(_lrs(GreedyLr(1.0), [1 / n for n in range(1, 40)])) == {1.0}
    assert _lrs(GreedyLr(1e-3), [1.0] * 40) == [1e-3] * 40
    below_the_lowest = GreedyLr(1e-4)
    assert _lrs(below_the_lowest, [1.0] * 40) == [1e-4] * 40
