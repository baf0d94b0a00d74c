"""The chart of a job: its curves, and what was forecast of them."""

from __future__ import annotations

from tuner_server.history.thinning import Window
from tuner_server.history.timeline import Timeline
from tuner_server.web.charts.curves import JobCurves, job_curves
from tuner_server.web.charts.forecasts import Forecasts, forecasts


class JobChart(JobCurves):
    """What is drawn."""

    forecasts: Forecasts


def job_chart(found: Timeline, window: Window) -> JobChart:
    """The chart within a window."""
    return {**job_curves(found, window), "forecasts": forecasts(found)}
