import numpy as np
import pytest
from scipy.interpolate import UnivariateSpline

from tuner_server.core.forecast import Objective
from tuner_server.core.forecast.denoise import MIN_POINTS, denoise


def test_validation_drops_one_early_outlier(rng: np.random.Generator) -> None:
    losses = 2.0 - 0.01 * np.arange(16) + 0.001 * rng.normal(size=16)
    losses[3] += 1.0
    kept = denoise(losses, Objective.VALIDATION).kept
    np.testing.assert_array_equal(kept, np.delete(np.arange(16), 3))


@pytest.mark.parametrize("position", [7, 15])
def test_validation_keeps_an_outlier_of_the_later_half(position: int) -> None:
    losses = np.linspace(2.0, 1.9, 16)
    losses[position] += 1.0
    assert denoise(losses, Objective.VALIDATION).kept.size == 16


def test_training_drops_from_the_first_half_only(rng: np.random.Generator) -> None:
    losses = 2.0 + 0.1 * rng.normal(size=100)
    losses[[10, 20, 30, 80]] += 5.0
    dropped = np.setdiff1d(np.arange(100), denoise(losses, Objective.TRAINING).kept)
    assert {10, 20, 30} <= set(dropped)
    assert 80 not in dropped
    # Ten rounds of at most three.
    assert dropped.size <= 30


def test_training_drops_nothing_where_three_percent_round_to_none(
    rng: np.random.Generator,
) -> None:
    assert denoise(rng.normal(size=16), Objective.TRAINING).kept.size == 16


@pytest.mark.parametrize("objective", Objective)
def test_smooth_is_scipys_default_smoothing_spline(rng: np.random.Generator, objective: Objective) -> None:
    losses = 2.0 * np.exp(-0.05 * np.arange(60)) + 0.3 * rng.normal(size=60)
    denoised = denoise(losses, objective)
    spline = UnivariateSpline(denoised.kept, losses[denoised.kept], k=2)
    np.testing.assert_allclose(denoised.smooth, spline(np.arange(60)), rtol=1e-12)


@pytest.mark.parametrize("objective", Objective)
def test_fewest_points_are_enough(objective: Objective) -> None:
    denoised = denoise(np.array([5.0, 1.0, 4.0, 1.0]), objective)
    assert denoised.smooth.shape == (MIN_POINTS,)
    assert np.isfinite(denoised.smooth).all()
