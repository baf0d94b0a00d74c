"""Random trainings: what is drawn is drawn again, a sweep goes on at its edge, and the table counts what was ruined."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from benchmarks.random_trainings import runs
from benchmarks.random_trainings.report import markdown, plot
from benchmarks.random_trainings.runs import Found, decayed, find
from benchmarks.random_trainings.training import _OPTIMIZERS, Training, draw

SHORT = next(drawn for drawn in map(draw, range(1000)) if drawn.n_steps == 500 and drawn.network == "perceptron")


def test_a_training_is_the_same_whenever_it_is_drawn() -> None:
    assert draw(7) == draw(7)
    assert len({dataclasses.replace(draw(number), number=0) for number in range(50)}) == 50
    assert {draw(number).optimizer for number in range(300)} == set(_OPTIMIZERS)
    first = Training(SHORT)
    batch, loss = next(iter(first)), first.judge()
    second = Training(SHORT, lr=0.1)
    assert torch.equal(batch[0], next(iter(second))[0])
    assert second.judge() == loss


def test_a_decay_trains() -> None:
    before, after = Training(SHORT).judge(), decayed(SHORT, 0.01)
    assert after is not None
    assert after < before


@pytest.mark.parametrize(
    ("losses", "factors"),
    [
        ({0.1: 3.0, 0.3: 2.0, 1.0: 1.0, 3.0: 2.0}, {"0.1", "0.3", "1", "3"}),
        ({0.1: 1.0, 0.3: 2.0, 1.0: 3.0, 3.0: 4.0}, {"0.03", "0.1", "0.3", "1", "3"}),
        ({0.1: 4.0, 0.3: 3.0, 1.0: 2.0, 3.0: 1.0}, {"0.1", "0.3", "1", "3", "10", "30"}),
    ],
)
def test_a_sweep_goes_on_where_the_best_lies_at_its_edge(
    monkeypatch: pytest.MonkeyPatch, losses: dict[float, float], factors: set[str]
) -> None:
    monkeypatch.setattr(runs, "tuned", lambda drawn: (1.0, 2.0, 0.1))
    monkeypatch.setattr(runs, "decayed", lambda drawn, lr: losses.get(lr, 9.0))
    found = find(3)
    assert set(found.sweep) == factors
    assert found.ratio == 2.0


def test_the_table_counts_what_was_ruined_and_where_the_best_lr_lies() -> None:
    sweep = {"0.1": 2.0, "0.3": 2.0, "1": 2.0, "3": 1.0, "10": 2.0, "30": None}
    found = [Found(0, 0.1, 1.0, 0.1, sweep), Found(1, 0.1, 4.0, 0.1, sweep), Found(2, 0.1, None, 0.1, sweep)]
    assert found[2].ratio == math.inf
    assert "| all | 3 | 7.37 ± 136% | 4.00 | 2 (67%) | 100% | 0% |" in markdown(found)
    assert len(plot(found).axes) == 1


def test_a_training_of_which_nothing_came_is_left_out() -> None:
    assert Found(0, 0.1, 1.0, 0.1, {"1": None}).ratio is None
    assert "| all |" not in markdown([Found(0, 0.1, 1.0, 0.1, {"1": None})])
