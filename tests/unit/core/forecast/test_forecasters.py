"""What every forecaster promises: those of the registry, and the one of the documentation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support.extensions import page_examples
from tests.support.jobs.sample_jobs import history, stored
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.forecast import (
    FORECASTERS,
    ExponentialForecaster,
    FloatArray,
    Forecast,
    Forecaster,
    Objective,
    PowerLawForecaster,
)
from tuner_server.core.job.state import Status
from tuner_server.core.policies import make
from tuner_server.history.timeline import timeline
from tuner_server.report.report_file import report_html

LogLinearForecaster = page_examples.load("log_linear").LogLinearForecaster
EVERY: list[Forecaster] = [
    *dict.fromkeys(make(objective) for make in FORECASTERS.values() for objective in Objective),
    LogLinearForecaster(),
]
every_forecaster = pytest.mark.parametrize("forecaster", EVERY, ids=repr)

finite = st.floats(allow_nan=False, allow_infinity=False)
ordinary = st.floats(0.0, 12.0)
lengths = st.integers(1, 200)
any_series = st.one_of(
    arrays(np.float64, lengths, elements=finite, fill=finite),
    arrays(np.float64, lengths, elements=ordinary, fill=ordinary),
    st.builds(np.full, lengths, finite),
    st.builds(lambda n, a, b: np.linspace(a, b, n), lengths, ordinary, ordinary),
)


@every_forecaster
@given(losses=any_series, horizon=st.one_of(st.floats(0.0, 1e4), st.just(1e300)))
@settings(max_examples=120, deadline=None)
def test_any_finite_series_has_a_forecast(forecaster: Forecaster, losses: FloatArray, horizon: float) -> None:
    # `Forecast` itself refuses what is not finite.
    assert isinstance(forecaster.fit(losses).predict(horizon), Forecast)


@every_forecaster
@given(
    n=st.integers(1, 120),
    rate=st.floats(1e-3, 5.0),
    noise=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_sd_grows_with_the_horizon(forecaster: Forecaster, n: int, rate: float, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    curve = forecaster.fit(np.exp(-rate / n * np.arange(n)) + noise * rng.normal(size=n))
    sds = np.array([curve.predict(h).sd for h in n * np.geomspace(1.0, 100.0, 12)])
    assert (np.diff(sds) >= -1e-9 * sds[:-1]).all()


@every_forecaster
@pytest.mark.parametrize("loss", [0.0, 0.6931, -3.0, 1e30])
@pytest.mark.parametrize("n", [2, 4, 10, 100])
def test_constant_series_stays_where_it_is(forecaster: Forecaster, loss: float, n: int) -> None:
    forecast = forecaster.fit(np.full(n, loss)).predict(10 * n)
    assert forecast.loss == pytest.approx(loss, rel=1e-9)
    assert forecast.sd <= 1e-5 * abs(loss) + 1e-30


@every_forecaster
@given(losses=arrays(np.float64, st.integers(4, 60), elements=ordinary))
@settings(max_examples=50, deadline=None)
def test_losses_that_were_never_negative_are_not_forecast_to_be(forecaster: Forecaster, losses: FloatArray) -> None:
    assert forecaster.fit(losses).predict(1e4).loss >= 0.0


@every_forecaster
def test_fitting_leaves_the_losses_alone(forecaster: Forecaster, rng: np.random.Generator) -> None:
    losses = rng.normal(size=50)
    before = losses.copy()
    first = forecaster.fit(losses).predict(500)
    np.testing.assert_array_equal(losses, before)
    assert forecaster.fit(losses).predict(500) == first


@every_forecaster
@pytest.mark.parametrize(
    "losses",
    [
        np.array([]),
        np.ones((3, 2)),
        np.array([1.0, math.nan, 1.0, 1.0]),
        np.array([math.inf]),
    ],
    ids=["empty", "matrix", "nan", "inf"],
)
def test_bad_losses_are_refused(forecaster: Forecaster, losses: FloatArray) -> None:
    with pytest.raises(ValueError, match="losses must be"):
        forecaster.fit(losses)


@every_forecaster
@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("horizon", [math.nan, math.inf, -1.0])
def test_bad_horizons_are_refused(forecaster: Forecaster, n: int, horizon: float) -> None:
    with pytest.raises(ValueError, match="horizon"):
        forecaster.fit(np.linspace(2.0, 1.0, n)).predict(horizon)


@pytest.mark.parametrize(
    ("loss", "sd", "raw"),
    [
        (math.nan, 1.0, 1.0),
        (math.inf, 1.0, 1.0),
        (1.0, 0.0, 1.0),
        (1.0, -1.0, 1.0),
        (1.0, math.inf, 1.0),
        (1.0, 1.0, -math.inf),
    ],
)
def test_forecast_refuses_nonsense(loss: float, sd: float, raw: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Forecast(loss, sd, raw)


@every_forecaster
def test_a_forecast_that_no_bound_moved_is_its_raw_value(forecaster: Forecaster) -> None:
    forecast = forecaster.fit(5.0 + np.exp(-0.05 * np.arange(60.0))).predict(100)
    assert forecast.raw == forecast.loss


@pytest.mark.parametrize(
    ("forecaster", "fall"),
    [
        (ExponentialForecaster(Objective.TRAINING), np.linspace(0.0, 1.0, 40)),
        (PowerLawForecaster(), np.log1p(np.arange(40.0)) / np.log(40.0)),
    ],
)
def test_of_two_falls_that_are_bounded_at_zero_the_steeper_one_has_the_lower_raw_value(
    forecaster: Forecaster, fall: FloatArray
) -> None:
    slow, steep = (forecaster.fit(2.0 - by * fall).predict(1e8) for by in (1.2, 1.6))
    assert slow.loss == steep.loss == 0.0
    assert steep.raw < slow.raw < 0.0


@pytest.mark.parametrize("name", FORECASTERS)
@pytest.mark.parametrize("objective", Objective)
def test_the_registry_calls_each_by_its_name(name: str, objective: Objective) -> None:
    assert FORECASTERS[name](objective).name == name


def test_one_line_makes_a_forecaster_known_to_jobs_and_their_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(400, **QUICK | {"forecaster": LogLinearForecaster.name})
    *names, final = map(repr, FORECASTERS)
    with pytest.raises(InvalidInputError, match=f"Input should be {', '.join(names)} or {final}"):
        make(asked)
    monkeypatch.setitem(FORECASTERS, LogLinearForecaster.name, lambda _: LogLinearForecaster())
    run = drive(asked, SimulatedTraining())
    assert run.state.status is Status.FINISHED
    told = [exchange.decision.extrapolation for exchange in run.exchanges if exchange.decision is not None]
    assert {found.forecaster for found in told if found is not None} == {LogLinearForecaster.name}
    assert report_html(stored(run.state), timeline(history(run)))
