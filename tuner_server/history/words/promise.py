"""What a job's search promised of the end of the run, and how the run did.

The search expects its small run, at the best LR, to end at a certain loss. The whole run has many times its steps, so
it is to end below that.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from tuner_server.core.messages import ChangeKind, Weights
from tuner_server.history.stage import Span, Stage
from tuner_server.history.timeline import Timeline
from tuner_server.history.words.numbers import number, steps, told_apart, with_error

END_LOSSES = 20
"""The last losses, whose mean is the end of a run that is not validated."""
SURE_SDS = 2.0
"""Standard errors that two losses must be apart, to differ for sure: two means, or an end and what was expected."""


@dataclasses.dataclass(frozen=True, slots=True)
class Promise:
    """A promise that came to its test."""

    expected: float
    expected_sd: float
    end: float
    """The end in the same unit: a validation where the probes were judged by one, else a mean of training losses."""
    end_error: float
    """The standard error of that mean; of a validation zero."""
    n_losses: int
    """Over which the mean is taken; of a validation zero."""
    averaged: bool = False
    """Whether the validation is that of an average of the weights, which was adopted."""
    of_metric: bool = False
    """Whether both are minus a metric, which is shown with its own sign."""

    @classmethod
    def of(cls, found: Timeline) -> Promise | None:
        """The promise of a job that has ended; None: there was none, or its end can't be told."""
        for stage in reversed(found.stages):
            if stage.decision is not None and stage.decision.forecast is not None:
                return cls._tested(stage, stage.decision.forecast, stage.decision.forecast_sd or 0.0, found)
            if stage.change is not None and stage.change.kind is ChangeKind.REPLAN:
                return None  # what was promised before was of other data
        return None

    @classmethod
    def _tested(cls, stage: Stage, expected: float, sd: float, found: Timeline) -> Promise | None:
        if stage.validated:
            averaged = _validation_of_average(found)
            if averaged is not None:
                return cls(expected, sd, averaged, 0.0, 0, averaged=True, of_metric=found.maximises)
            validation = _last_validation(found)
            return None if validation is None else cls(expected, sd, validation, 0.0, 0, of_metric=found.maximises)
        losses = found.committed_losses()[-END_LOSSES:].astype(np.float64)
        if len(losses) < END_LOSSES:
            return None
        return cls(expected, sd, float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(len(losses)), len(losses))

    @property
    def kept(self) -> bool:
        """Whether the end is not above what was expected, but for the errors of both."""
        return self.end < self.expected + SURE_SDS * math.hypot(self.expected_sd, self.end_error)

    @property
    def words(self) -> str:
        """Both losses, as a sentence."""
        sign, better = (-1.0, "above") if self.of_metric else (1.0, "below")
        end, what = told_apart(sign * self.end, sign * self.expected)[0], "The last validation"
        if self.averaged:
            what = "The validation of the average of the weights"
        if self.n_losses:
            end, what = with_error(self.end, self.end_error), f"The mean of the last {steps(self.n_losses)}"
        wanted = sign * self.expected
        expected = with_error(wanted, self.expected_sd) if self.expected_sd else number(wanted)
        place = better if self.end < self.expected else "within the error of" if self.kept else f"not {better}"
        return f"{what} is {end}, {place} the {expected} that the search expected of a probe at the best LR."


def _validation_of_average(found: Timeline) -> float | None:
    """The validation loss of the average that was adopted; None: there is none."""
    last = _last_span(found)
    ending = None if last is None else last.ending
    return ending.average if ending is not None and ending.adopted is Weights.AVERAGE else None


def _last_span(found: Timeline) -> Span | None:
    """The last one that stayed."""
    return next((span for span in reversed(found.spans) if span.kept), None)


def _last_validation(found: Timeline) -> float | None:
    """The validation loss after the last committed step; None: it was not validated."""
    last = _last_span(found)
    if last is None or not last.validations or last.validations[-1].step < last.n_steps:
        return None
    return last.validations[-1].loss
