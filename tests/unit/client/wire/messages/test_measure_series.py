"""Measures of committed steps, gathered from reports of which some have none, and cut where steps are rolled back."""

from __future__ import annotations

import math

import pytest
from lrpilot.wire.messages.measure_series import MeasureSeries


def values(series: MeasureSeries) -> dict[str, list[float]]:
    return {measure.name: list(measure.values) for measure in series.measured()}


def test_every_value_is_that_of_its_step() -> None:
    series = MeasureSeries()
    for n_steps, measures in (
        (2, {}),
        (2, {"norm": [1.0, 2.0]}),
        (1, {}),
        (2, {"norm": [3.0, 4.0], "other": [5.0, 6.0]}),
    ):
        series.add(n_steps, measures.items())
    nan = math.nan
    assert values(series) == {
        "norm": pytest.approx([nan, nan, 1.0, 2.0, nan, 3.0, 4.0], nan_ok=True),
        "other": pytest.approx([nan] * 5 + [5.0, 6.0], nan_ok=True),
    }


def test_what_is_rolled_back_is_forgotten_and_the_rest_goes_on() -> None:
    series = MeasureSeries()
    series.add(4, [("norm", [1.0, 2.0, 3.0, 4.0])])
    series.cut(2)
    again = MeasureSeries(series.measured(), 2)
    for each in (series, again):
        each.add(1, [("norm", [9.0])])
        assert values(each) == {"norm": [1.0, 2.0, 9.0]}
