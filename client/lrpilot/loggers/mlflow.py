"""MLflow."""

from __future__ import annotations

import time

import mlflow
from mlflow.entities import Metric

from lrpilot.loggers.metrics import EVERY, MetricLogger, Point

BATCH = 1000
"""The most metrics in one request: MLflow's limit."""


class MlflowLogger(MetricLogger):
    """Logs metrics to a run, in batches. Each metric has steps of its own kind: committed, or of the search."""

    def __init__(self, run_id: str | None = None, every: int = EVERY) -> None:
        """Logs to that run; None: to the active one, which is started if there is none."""
        super().__init__(every)
        active = mlflow.active_run()
        self._run_id = run_id or (active or mlflow.start_run()).info.run_id
        self._client = mlflow.MlflowClient()

    def write(self, points: list[Point]) -> None:
        """One metric a value."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, point.step) for point in points for name, value in point.values.items()]
        for i in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[i : i + BATCH])
