"""What the stages of a run have gained, and for how many of them the loss has stood still."""

from __future__ import annotations

import math

import numpy as np

from tuner_server.core.evidence.divergence import scatter
from tuner_server.core.evidence.promise import VALIDATION_MARGIN_SDS
from tuner_server.core.messages import Report, Value

ERRORS = 2.0
"""Standard errors of the difference of two means that are no gain yet."""


class Gains(Value):
    """The lowest loss at the end of a stage, and how many stages there were since."""

    best: float | None = None
    """Validation where there is one, else the mean of the stage's last report; None: no stage has ended."""
    without: int = 0

    def after(self, report: Report) -> Gains:
        """What is known after one more stage.

        Args:
            report: the last one on it, with a loss at least.
        """
        losses = np.asarray(report.losses)
        sd = scatter(losses) if len(losses) > 1 else 0.0
        validated = bool(report.validations)
        loss = report.validations[-1].loss if validated else float(losses.mean())
        # All validations see the same data; two means of training losses do not.
        margin = VALIDATION_MARGIN_SDS * sd if validated else ERRORS * sd * math.sqrt(2.0 / len(losses))
        if self.best is None or loss < self.best - margin:
            return Gains(best=loss)
        return self.model_copy(update={"without": self.without + 1})
