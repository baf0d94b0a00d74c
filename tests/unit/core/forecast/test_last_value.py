import math

import numpy as np
import pytest

from tuner_server.core.forecast import LastValueForecaster


def test_forecast_is_the_mean_of_the_window() -> None:
    losses = np.array([9.0, 8.0, 3.0, 2.0, 1.0])
    assert LastValueForecaster(window=3).fit(losses).predict(50).loss == pytest.approx(2.0)


def test_window_longer_than_the_series_takes_all_of_it() -> None:
    assert LastValueForecaster().fit(np.array([3.0, 1.0])).predict(20).loss == pytest.approx(2.0)


def test_sd_of_trendless_losses_comes_from_their_scatter() -> None:
    losses = np.tile([1.0, 2.0], 500)
    # At the end of the data the trend has nothing to add: only the mean of ten is uncertain.
    expected = math.sqrt(np.var(losses[-10:], ddof=1) / 10)
    assert LastValueForecaster().fit(losses).predict(999).sd == pytest.approx(expected, rel=1e-3)


def test_sd_covers_what_the_trend_would_still_change() -> None:
    losses = 3.0 - 0.2 * np.log1p(np.arange(100))
    curve = LastValueForecaster(window=1).fit(losses)
    assert curve.predict(999).sd == pytest.approx(0.2 * math.log(10.0), rel=1e-3)


def test_one_loss_is_as_uncertain_as_it_is_large() -> None:
    forecast = LastValueForecaster().fit(np.array([-2.5])).predict(100)
    assert (forecast.loss, forecast.sd) == (-2.5, 2.5)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        LastValueForecaster(window=0)
