import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws.learning_trend import (
    first_level_within,
    fit,
    prediction_level,
    trace,
    working_level,
)

DATA = Path(__file__).parents[3] / "data" / "methods" / "learning_curve.json"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DATA.read_text("utf-8"))
    return loaded


def test_exact_data_give_the_law_that_made_them(vectors: dict[str, Any]) -> None:
    a, b, c = vectors["exact_fit_without_noise"]
    sizes = [5000.0 * i for i in range(1, 9)]
    trend = fit(sizes, [c - a * x**-b for x in sizes])
    assert (trend.a, trend.b, trend.c) == pytest.approx((a, b, c), rel=1e-3)
    assert trend.at(1e5) == pytest.approx(c - a * 1e5**-b, rel=1e-6)


def test_levels_of_the_published_procedure(vectors: dict[str, Any]) -> None:
    x, trends = vectors["x"], trace(vectors["x"], vectors["y"])
    asymptotes = {int(i): c for i, c in vectors["asymptotes_by_observations"].items()}
    layers = {int(i): chi for i, chi in vectors["layer_of_convergence"].items()}
    assert {i: trends[i].c for i in asymptotes} == pytest.approx(asymptotes, rel=1e-3)
    assert {i: trends[i].layer(x[i - 1]) for i in layers} == pytest.approx(layers, rel=1e-3)
    working = working_level(x, trends, nu=vectors["nu"], slowdown=vectors["slowdown"], look_ahead=vectors["lookahead"])
    prediction = prediction_level(trends, working)
    assert (working, prediction) == (vectors["working_level"], vectors["prediction_level"])
    assert prediction is not None
    for tau, level in vectors["first_level_within_tau"].items():
        assert first_level_within(x, trends, prediction, float(tau)) == level


def test_an_asymptote_that_can_not_be_puts_the_prediction_off(vectors: dict[str, Any]) -> None:
    x, trends = vectors["x"], trace(vectors["x"], vectors["y"])
    assert prediction_level(trends, 8, ceiling=96.94) == 21
    assert prediction_level(trends, 8, ceiling=96.0) is None
    assert prediction_level(trends, None) is None
    assert first_level_within(x, trends, 8, 0.5) is None


def test_a_backbone_that_jumps_has_no_working_level(vectors: dict[str, Any]) -> None:
    x, trends = vectors["x"], trace(vectors["x"], vectors["y"])
    assert working_level(x, trends, nu=1e-8) is None
    slowed = working_level(x, trends, nu=1e-8, slowdown=3.0)
    assert slowed is not None  # a slowdown lowers the demand


def test_anchors_steady_the_backbone(vectors: dict[str, Any]) -> None:
    x, y = vectors["x"], vectors["y"]
    free, anchored = trace(x, y), trace(x, y, anchored_from=8)
    jumps = [np.abs(np.diff([trends[i].c for i in range(9, 41)])).mean() for trends in (free, anchored)]
    assert jumps[1] < 0.6 * jumps[0]
    assert anchored[8] == free[8]
    assert anchored[40].c == pytest.approx(vectors["truth"]["c"], abs=0.1)


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1e-3), (-500.0, 1.0), (7.0, 250.0)])
def test_a_trend_moves_with_its_observations(vectors: dict[str, Any], shift: float, factor: float) -> None:
    x, y = vectors["x"][:20], vectors["y"][:20]
    plain, moved = fit(x, y), fit(x, [factor * value + shift for value in y])
    assert moved.b == pytest.approx(plain.b, rel=1e-4)
    assert moved.c == pytest.approx(factor * plain.c + shift, rel=1e-6)
    assert moved.layer(x[-1]) == pytest.approx(factor * plain.layer(x[-1]), rel=1e-4)


def test_what_does_not_grow_has_nothing_to_gain() -> None:
    assert fit([1, 2, 3, 4], [5.0, 5.0, 5.0, 5.0]).layer(4) == 0
    falling = fit([1, 2, 3, 4], [5.0, 4.0, 3.0, 2.0])
    assert (falling.a, falling.c) == (0, 3.5)


def test_a_trend_needs_three_observations() -> None:
    with pytest.raises(ValueError, match="3 or more"):
        fit([1, 2], [0.1, 0.2])
