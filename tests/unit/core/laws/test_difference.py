"""The difference of two losses under the annealing law: what going on gains over an annealing at once."""

from __future__ import annotations

import numpy as np
import pytest

from tuner_server.core.laws.annealing_law import MOMENTA, AnnealingLaw, fit
from tuner_server.core.laws.curve import Curve
from tuner_server.core.laws.lr_path import FloatArray, LrPath

TOTAL, PEAK = 1000, 0.1
LEVEL, AMPLITUDE, POWER, GAIN, MOMENTUM = 1.0, 1.0, 0.5, 0.02, 0.98


def losses(path: LrPath, steps: FloatArray) -> FloatArray:
    s1 = np.interp(steps, path.steps, path.area())
    s2 = np.interp(steps, path.steps, path.annealing_area(MOMENTUM))
    found: FloatArray = LEVEL + AMPLITUDE * s1**-POWER - GAIN * s2
    return found


def true_difference(first: LrPath, second: LrPath) -> float:
    one, other = (float(losses(path, np.array([path.end], dtype=np.float64))[0]) for path in (first, second))
    return one - other


def linear(n_steps: int, total: int = TOTAL) -> FloatArray:
    return PEAK * (1.0 - np.arange(n_steps, dtype=np.float64) / total)


def annealed(lrs: FloatArray, n_steps: int) -> LrPath:
    """The path that falls from its last LR to zero in so many further steps."""
    return LrPath(np.concatenate([lrs, lrs[-1] * (1.0 - np.arange(1, n_steps + 1) / n_steps)]))


def fitted(lrs: FloatArray, noise: float = 0.0, seed: int = 0, shift: float = 0.0, factor: float = 1.0) -> AnnealingLaw:
    path, steps = LrPath(lrs), np.arange(60.0, lrs.size, 20.0)
    seen = losses(path, steps) + noise * np.random.default_rng(seed).normal(size=steps.size)
    return fit([Curve(path, steps, factor * seen + shift)], logarithmic=False)


def test_the_difference_of_a_planted_law_comes_back() -> None:
    lrs = linear(700)
    first, second = annealed(lrs, 50), LrPath(linear(TOTAL))
    path, steps = LrPath(lrs), np.arange(60.0, lrs.size, 20.0)
    law = fit([Curve(path, steps, losses(path, steps))], momenta=(MOMENTUM,), logarithmic=False)
    found = law.difference(first, second, 0.3)
    assert found.loss == pytest.approx(true_difference(first, second), rel=0.02)
    assert found.error < 0.1 * found.loss


def test_its_error_covers_the_truth() -> None:
    lrs = linear(600)
    first, second = annealed(lrs, 80), LrPath(linear(TOTAL))
    truth = true_difference(first, second)
    found = [fitted(lrs, 0.003, seed).difference(first, second, 0.3) for seed in range(12)]
    off = [(prediction.loss - truth) / prediction.error for prediction in found]
    assert np.sqrt(np.mean(np.square(off))) < 2.0
    assert np.mean([prediction.error for prediction in found]) < 3.0 * truth


@pytest.mark.parametrize(("shift", "factor"), [(-9.0, 1.0), (0.0, 40.0), (100.0, 0.01)])
def test_it_scales_with_the_losses_and_does_not_move_with_them(shift: float, factor: float) -> None:
    lrs = linear(600)
    first, second = annealed(lrs, 80), LrPath(linear(TOTAL))
    plain = fitted(lrs, 0.003).difference(first, second, 0.3)
    moved = fitted(lrs, 0.003, shift=shift, factor=factor).difference(first, second, 0.3 * factor)
    assert moved.loss == pytest.approx(factor * plain.loss, rel=1e-3)
    assert moved.error == pytest.approx(factor * plain.error, rel=1e-3)


def test_what_annealing_brings_is_as_uncertain_as_it_was_where_the_lr_never_fell() -> None:
    lrs = np.full(500, PEAK)
    law = fitted(lrs)
    short, long = annealed(lrs, 50), annealed(lrs, 200)
    narrow, wide = (law.difference(short, long, prior, MOMENTA[:4]).error for prior in (0.1, 1.0))
    assert 0.02 < narrow < 0.1
    assert wide == pytest.approx(10 * narrow, rel=0.05)
    assert law.difference(long, long, 1.0).error == 0


def test_a_prior_counts_the_less_the_more_is_seen_of_annealing() -> None:
    """The LR has fallen by half: whatever was believed beforehand, the losses tell what that brought."""
    lrs = linear(500)
    first, second = annealed(lrs, 50), annealed(lrs, 300)
    believed = [fitted(lrs, 1e-4).difference(first, second, prior).loss for prior in (0.1, 10.0)]
    assert believed[0] == pytest.approx(believed[1], rel=0.1)
    doubted = fitted(lrs, 1e-4).difference(first, second, 1e-6).loss
    assert abs(doubted - believed[1]) > 0.2 * believed[1]
