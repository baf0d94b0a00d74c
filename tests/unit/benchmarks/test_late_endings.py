"""Several endings of one run: forks that leave the run alone, and what a choice among them gains and costs."""

from __future__ import annotations

import math

import pytest

from benchmarks.late_endings import CHOICES, ENDINGS, FORKED_AT, LINE, Case, Ended, as_markdown, draw, forked, rows

N_STEPS = 40


def test_the_line_of_a_fork_is_the_run_itself() -> None:
    early, late = forked("mlp", 0, N_STEPS, 0.01)
    assert (early.forked_at, late.forked_at) == FORKED_AT
    assert set(early.ended) == set(late.ended) == set(ENDINGS)
    # Whether it is forked at three quarters or at nine tenths: the forks before have not touched it.
    assert early.ended[LINE].score == pytest.approx(late.ended[LINE].score, rel=1e-6)
    assert len({ended.score for ended in early.ended.values()}) == len(ENDINGS)


def case(seed: int, line: float, other: float, *, validation: float | None = None) -> Case:
    """One whose other endings all come to the same."""
    ended = {name: Ended(other if validation is None else validation, other) for name in ENDINGS}
    return Case("mlp", seed, 1000, 0.75, {**ended, LINE: Ended(line, line)})


def test_the_validation_chooses() -> None:
    names = tuple(ENDINGS)
    assert case(0, 1.0, 0.9).gained(names) == pytest.approx(math.log(0.9))
    assert case(0, 1.0, 1.1).gained(names) == 0
    assert case(0, 1.0, 1.1, validation=0.5).gained(names) == pytest.approx(math.log(1.1))


def test_one_that_diverged_is_not_chosen() -> None:
    alone = Case("mlp", 0, 1000, 0.75, {LINE: Ended(1.0, 1.0)})
    assert alone.gained(tuple(ENDINGS)) == 0


def test_rows_have_the_mean_its_error_and_the_cost_of_the_steps() -> None:
    found = rows([case(0, 1.0, 0.9), case(1, 1.0, 1.0)], {("mlp", 1000): 0.5})
    assert [row.choice for row in found] == list(CHOICES)
    one, every = found[0], found[-1]
    assert one.ratio == pytest.approx(math.sqrt(0.9))
    assert one.error == pytest.approx(-math.log(0.9) / 2)
    # One ending more makes the run longer by a quarter, and four by its own length.
    assert one.cost == pytest.approx(1.25**0.5, rel=1e-5)
    assert every.cost == pytest.approx(2**0.5, rel=1e-5)
    assert "75%" in as_markdown(found)
    assert len(draw(found).axes) == 1
