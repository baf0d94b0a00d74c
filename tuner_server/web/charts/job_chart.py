"""The chart of a job: its curves, and what was forecast of them."""

from __future__ import annotations

from tuner_server.core.config import JobConfig
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import Timeline
from tuner_server.web.charts.curves import JobCurves, job_curves
from tuner_server.web.charts.forecasts import Forecasts, forecasts


class JobChart(JobCurves):
    """What is drawn."""

    forecasts: Forecasts


def job_chart(config: JobConfig, found: Timeline, window: Window) -> JobChart:
    """Of such a job, within a window."""
    return {**job_curves(found, window), "forecasts": forecasts(config, found)}
