import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import fmin

from tuner_server.core.forecast import (
    ExponentialCurve,
    ExponentialForecaster,
    FloatArray,
    LastValueCurve,
    Objective,
)
from tuner_server.core.forecast.exponential import fit_exponential

REFERENCES: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "data" / "forecasts.json").read_text())[
    "series"
]

# Validation losses of straight falls that the published fit takes below zero.
BOUNDED_AT_ZERO = {7: -14.0420, 8: -12.4730, 45: -0.2748}


def fit(losses: FloatArray, objective: Objective = Objective.TRAINING) -> ExponentialCurve:
    curve = ExponentialForecaster(objective).fit(losses)
    assert isinstance(curve, ExponentialCurve)
    return curve


def agrees(ours: float, published: float) -> bool:
    return abs(ours - published) <= max(0.005, 0.01 * abs(published))


@pytest.fixture(scope="module")
def reference_curves() -> list[ExponentialCurve]:
    return [fit(np.array(r["losses"]), Objective(r["objective"])) for r in REFERENCES]


def test_the_raw_fit_agrees_with_every_published_forecast(
    reference_curves: list[ExponentialCurve],
) -> None:
    assert len(reference_curves) == 67
    differing = [
        i
        for i, (curve, r) in enumerate(zip(reference_curves, REFERENCES, strict=True))
        if not agrees(curve.predict(r["horizon"]).raw, r["forecast"])
    ]
    assert differing == []


def test_the_bounded_forecast_differs_only_where_the_published_one_is_negative(
    reference_curves: list[ExponentialCurve],
) -> None:
    differing = {
        i: (curve.predict(r["horizon"]).loss, round(r["forecast"], 4))
        for i, (curve, r) in enumerate(zip(reference_curves, REFERENCES, strict=True))
        if not agrees(curve.predict(r["horizon"]).loss, r["forecast"])
    }
    assert differing == {i: (0.0, published) for i, published in BOUNDED_AT_ZERO.items()}
    assert 1 - len(differing) / len(REFERENCES) >= 0.95


def test_wild_reference_fits_are_known_to_be_uncertain(
    reference_curves: list[ExponentialCurve],
) -> None:
    for i in (5, 6, *BOUNDED_AT_ZERO, 46):
        curve, r = reference_curves[i], REFERENCES[i]
        forecast = curve.predict(r["horizon"])
        assert abs(r["a"]) > 1e6
        # The end of the data is not ruled out.
        assert abs(forecast.loss - r["losses"][-1]) < 3 * forecast.sd


def test_closed_form_matches_lapack_inside_the_search() -> None:
    x = np.arange(40.0)
    values = 0.7 * np.exp(-0.06 * x) + 1.3 + 0.02 * np.sin(x)

    def coefficients(q: float) -> tuple[FloatArray, float]:
        design = np.stack([np.exp(-math.exp(q) * x), np.ones_like(x)], axis=1)
        solution = np.linalg.lstsq(design, values, rcond=None)[0]
        return solution, float(((design @ solution - values) ** 2).sum())

    q = float(fmin(lambda q: coefficients(float(q[0]))[1], [0.0], xtol=1e-5, ftol=1e-5, disp=False)[0])
    (a, c), _ = coefficients(q)
    ours = fit_exponential(values)
    assert (ours.a, ours.b, ours.c) == pytest.approx((a, -math.exp(q), c), rel=1e-6)


@pytest.mark.parametrize(("a", "b", "c"), [(2.0, -0.05, 0.5), (-1.0, -0.2, 3.0), (0.3, -1.0, 0.0)])
def test_noiseless_exponential_is_recovered(a: float, b: float, c: float) -> None:
    fitted = fit_exponential(a * np.exp(b * np.arange(50)) + c)
    assert (fitted.a, fitted.b, fitted.c) == pytest.approx((a, b, c), rel=1e-4, abs=1e-4)


def test_straight_line_is_continued() -> None:
    fitted = fit_exponential(3.0 - 0.01 * np.arange(40.0))
    assert fitted(400.0) == pytest.approx(-1.0, rel=1e-6)


def test_far_horizons_of_a_straight_fall_are_bounded() -> None:
    curve = fit(5.0 - 0.001 * np.arange(40.0))
    assert curve.predict(4000).raw == pytest.approx(1.0, abs=1e-3)
    # Ten times the observed fall below the lowest loss.
    assert curve.predict(4000).loss == pytest.approx(5.0 - 0.039 - 0.39, abs=1e-3)


def test_losses_that_are_negative_may_stay_so() -> None:
    assert fit(-0.1 * np.arange(40.0)).predict(100).loss == pytest.approx(-10.0, abs=0.01)


def test_near_straight_series_are_less_certain(rng: np.random.Generator) -> None:
    x = np.arange(100)
    noise = 0.01 * rng.normal(size=100)
    settled = fit(np.exp(-0.05 * x) + 1.0 + noise).predict(1000)
    # The same noise and the same observed fall, almost straight.
    straight = fit(2.0 - 0.01 * x + noise).predict(1000)
    assert straight.sd > 5 * settled.sd


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("n", [16, 40, 100])
@pytest.mark.parametrize("time_constants", [0.3, 1.0, 3.0])
def test_intervals_are_calibrated_on_noisy_exponentials(
    rng: np.random.Generator, objective: Objective, n: int, time_constants: float
) -> None:
    b = -time_constants / n
    truth = math.exp(10 * n * b) + 1.5
    scores = []
    for _ in range(40):
        losses = np.exp(b * np.arange(n)) + 1.5 + 0.03 * rng.normal(size=n)
        forecast = fit(losses, objective).predict(10 * n)
        scores.append((forecast.loss - truth) / forecast.sd)
    covered = np.mean(np.abs(scores) < 1.96)
    assert covered >= 0.8
    # Not by being vague: the root mean square of a standard score is 1.
    assert 0.25 < np.sqrt(np.mean(np.square(scores))) < 1.6


def test_more_noise_means_less_certainty(rng: np.random.Generator) -> None:
    x, noise = np.arange(100), rng.normal(size=100)
    sds = [fit(np.exp(-0.05 * x) + s * noise).predict(1000).sd for s in (0.02, 0.06, 0.18)]
    assert sds == sorted(sds)


def test_scaled_up_losses_give_a_scaled_up_forecast(rng: np.random.Generator) -> None:
    losses = 20.0 + np.exp(-0.05 * np.arange(60)) + 0.05 * rng.normal(size=60)
    small, large = fit(losses).predict(600), fit(losses * 2.0**40).predict(600)
    assert large.loss == small.loss * 2.0**40
    assert large.sd == small.sd * 2.0**40


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("objective", Objective)
def test_too_few_losses_get_the_last_value(n: int, objective: Objective) -> None:
    curve = ExponentialForecaster(objective).fit(np.linspace(2.0, 1.0, n))
    assert isinstance(curve, LastValueCurve)
