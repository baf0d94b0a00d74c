"""TensorBoard."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from lrpilot.loggers.metrics import EVERY, MetricLogger, Point


class TensorBoardLogger(MetricLogger):
    """Writes scalars; each is a chart with steps of its own kind: committed ones, or those of the search."""

    def __init__(self, writer: SummaryWriter, every: int = EVERY) -> None:
        """Writes to the user's writer."""
        super().__init__(every)
        self._writer = writer

    def write(self, points: list[Point]) -> None:
        """One scalar a value."""
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step)
