"""Whether a loss rose above where it started: not by chance, and always where a network is ruined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner_server.core.evidence.divergence import WINDOW
from tuner_server.core.evidence.rise import rose

START = 0.5
SD = 0.1
N_START = 10


def noisy(rng: np.random.Generator, course: list[float], *, skewed: bool = False) -> list[float]:
    """Losses along a course, scattered by `SD`; skewed, most are below it, and now and then one is far above."""
    noise = rng.standard_exponential(len(course)) - 1.0 if skewed else rng.standard_normal(len(course))
    losses: list[float] = (np.array(course) + SD * noise).tolist()
    return losses


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("n_start", [1, N_START])
@pytest.mark.parametrize("n_steps", [40, 80, 400])
def test_noise_around_the_start_is_no_rise(skewed: bool, n_start: int, n_steps: int) -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        start_loss = float(np.mean(noisy(rng, [START] * n_start, skewed=skewed)))
        found += rose(noisy(rng, [START] * n_steps, skewed=skewed), start_loss, n_start)
    assert found <= 2


def test_a_loss_that_came_down_from_a_spike_rose() -> None:
    rng = np.random.default_rng(0)
    spike = [START, 1.5, 9.2, 10.8]
    for _ in range(200):
        start_loss = float(np.mean(noisy(rng, [START] * N_START)))
        assert rose(noisy(rng, spike + [2.3 - 0.01 * i for i in range(36)]), start_loss, N_START), (
            "and has not recovered"
        )
        assert rose(noisy(rng, spike + [1.5 - 0.03 * i for i in range(36)]), start_loss, N_START), "and has recovered"


def test_a_loss_that_falls_did_not_rise() -> None:
    assert not rose([START - 0.01 * i for i in range(40)], START, N_START)


def test_a_spike_of_a_few_steps_is_a_rise_though_the_loss_is_back_soon() -> None:
    rng = np.random.default_rng(0)
    for n_start in (1, N_START):
        for _ in range(200):
            start_loss = float(np.mean(noisy(rng, [START] * n_start)))
            losses = noisy(rng, [START, 1.8, 1.9, 2.0] + [START - 0.005 * i for i in range(36)])
            assert rose(losses, start_loss, n_start)


def test_two_bad_batches_are_no_rise() -> None:
    losses = [START, START + SD] * 20
    assert not rose([*losses[:20], 9.0, 9.0, *losses[20:]], START + SD, N_START)
    assert rose([*losses[:20], 9.0, 9.0, 9.0, *losses[20:]], START + SD, N_START)


def test_a_rise_that_lasts_is_seen_where_a_spike_as_high_is_not() -> None:
    low, high = [START, START + SD] * 20, [START + 3 * SD, START + 4 * SD] * 5
    assert rose([*low[:20], *high, *low[20:]], START + SD, N_START)
    assert not rose([*low[:20], *high[:4], *low[20:]], START + SD, N_START)


def test_a_start_that_is_known_from_one_step_is_doubted_more() -> None:
    losses = [START + SD, START + 2 * SD] * 20
    assert rose(losses, START - SD, N_START)
    assert not rose(losses, START - SD, 1)
    assert rose(losses, START - 6 * SD, 1)


def test_a_few_losses_tell_nothing() -> None:
    assert not rose([9.0] * (WINDOW - 1), START, N_START)
    assert rose([9.0] * WINDOW, START, N_START)


@settings(max_examples=100, deadline=None)
@given(
    losses=st.lists(st.integers(-1000, 1000), min_size=WINDOW, max_size=40),
    start=st.integers(-1000, 1000),
    shift=st.integers(-(10**6), 10**6),
    exponent=st.integers(-20, 20),
)
def test_a_shift_and_a_factor_of_the_losses_change_nothing(
    losses: list[int], start: int, shift: int, exponent: int
) -> None:
    moved = [(loss + shift) * 2.0**exponent for loss in losses]
    assert rose(moved, (start + shift) * 2.0**exponent, N_START) == rose(losses, start, N_START)
