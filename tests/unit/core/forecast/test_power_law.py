import numpy as np
import pytest

from tuner_server.core.forecast import (
    FloatArray,
    LastValueCurve,
    PowerLawCurve,
    PowerLawForecaster,
)


def fit(losses: FloatArray) -> PowerLawCurve:
    curve = PowerLawForecaster().fit(losses)
    assert isinstance(curve, PowerLawCurve)
    return curve


@pytest.mark.parametrize(("a", "alpha", "c"), [(2.0, 0.5, 1.0), (3.0, 0.1, 0.2), (-1.0, 1.5, 4.0)])
def test_noiseless_power_law_is_recovered(a: float, alpha: float, c: float) -> None:
    curve = fit(c + a * np.arange(1.0, 101.0) ** -alpha)
    assert (curve.a, curve.alpha, curve.c) == pytest.approx((a, alpha, c), rel=1e-2, abs=1e-2)
    assert curve.predict(1000).loss == pytest.approx(c + a * 1001.0**-alpha, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_intervals_are_calibrated_on_noisy_power_laws(rng: np.random.Generator, alpha: float) -> None:
    truth = 1.0 + 2.0 * 1001.0**-alpha
    scores = []
    for _ in range(60):
        losses = 1.0 + 2.0 * np.arange(1.0, 101.0) ** -alpha + 0.03 * rng.normal(size=100)
        forecast = fit(losses).predict(1000)
        scores.append((forecast.loss - truth) / forecast.sd)
    assert np.mean(np.abs(scores) < 1.96) >= 0.8
    assert 0.25 < np.sqrt(np.mean(np.square(scores))) < 1.6


def test_a_logarithmic_fall_ends_at_ten_times_what_was_seen() -> None:
    losses = 50.0 - np.log(np.arange(1.0, 11.0))
    curve = fit(losses)
    assert curve.predict(1e30).loss == pytest.approx(losses[-1] - 10 * np.log(10.0), rel=0.02)


def test_large_losses_keep_their_units() -> None:
    curve = fit(1e6 * (1.0 + 2.0 * np.arange(1.0, 101.0) ** -0.5))
    assert (curve.a, curve.c) == pytest.approx((2e6, 1e6), rel=1e-2)


def test_too_few_losses_get_the_last_value() -> None:
    assert isinstance(PowerLawForecaster().fit(np.array([2.0, 1.0, 0.9])), LastValueCurve)
