"""Weights & Biases."""

from __future__ import annotations

from typing import Any

from lrpilot.loggers.metrics import EVERY, PREFIX, SEARCH_STEP, STEP, MetricLogger, Point


class WandbLogger(MetricLogger):
    """Logs to a run, with metrics of its own as axes.

    W&B's own step only grows by one a call: log what you log yourself against a metric too (`define_metric`), and not
    with `step=`, which it would refuse once it has passed.
    """

    def __init__(self, run: Any, every: int = EVERY) -> None:
        """Logs to what `wandb.init` gave."""
        super().__init__(every)
        self._run = run
        for axis in (STEP, SEARCH_STEP):
            run.define_metric(axis, hidden=True)
        run.define_metric(f"{PREFIX}/*", step_metric=STEP)
        for kind in ("probe", "candidate"):
            run.define_metric(f"{PREFIX}/{kind}/*", step_metric=SEARCH_STEP)

    def write(self, points: list[Point]) -> None:
        """One row a point."""
        for point in points:
            self._run.log({point.axis: point.step, **point.values})
