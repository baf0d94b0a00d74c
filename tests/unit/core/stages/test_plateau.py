"""The plateau of a run whose end is not known: its LR at every step, and the lengths of its stages."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from tuner_server.core.stages.plateau import LONGEST_STAGE, Plateau

STEPS = st.integers(0, 10**7)


def plateau(lr: float = 0.1, at_step: int = 0, begins: int = 0, exponent: float = 0.2) -> Plateau:
    return Plateau(lr=lr, at_step=at_step, begins=begins, first_stage=100, exponent=exponent)


def test_the_lr_is_that_of_a_run_as_long_again() -> None:
    # 2 * 350 + 100 = 8 * 100.
    assert plateau().lr_at(350) == pytest.approx(0.1 * 8**-0.2)
    assert plateau(exponent=0.0).lr_at(350) == 0.1


@hypothesis.given(STEPS, STEPS)
def test_every_point_of_a_plateau_says_the_same_of_the_others(a: int, b: int) -> None:
    whole = plateau()
    assert whole.through(whole.lr_at(a), a).lr_at(b) == pytest.approx(whole.lr_at(b))


@hypothesis.given(STEPS, st.integers(1, 10**6))
def test_it_falls_and_never_jumps(step: int, n_steps: int) -> None:
    whole = plateau()
    profile = whole.profile(step, n_steps, warmup=0)
    assert profile.lr(0) == whole.lr_at(step)
    assert profile.lr(n_steps) == pytest.approx(whole.lr_at(step + n_steps))
    assert profile.lr(n_steps) < profile.lr(0)


def test_one_that_begins_later_is_as_if_the_run_did() -> None:
    later = plateau(at_step=5000, begins=5000)
    assert later.lr_at(5350) == pytest.approx(plateau().lr_at(350))
    assert later.stage_length(5000) == 100
    assert later.lr_at(0) == 0.1, "there is none before its beginning"


def test_stages_double_up_to_a_limit() -> None:
    step, lengths = 0, []
    for _ in range(9):
        lengths.append(plateau().stage_length(step))
        step += lengths[-1]
    assert lengths == [100, 200, 400, 800, 1600, 3200, 6400, LONGEST_STAGE, LONGEST_STAGE]
