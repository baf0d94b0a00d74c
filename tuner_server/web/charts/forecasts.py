"""Forecasts against the actual losses, over all stages of a job."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from tuner_server.core.messages import Extrapolation, Phase
from tuner_server.history.stage import Probe, Stage
from tuner_server.history.timeline import Timeline
from tuner_server.history.words.numbers import number, with_error
from tuner_server.history.words.reasons import actual_end
from tuner_server.web.charts.curves import Line
from tuner_server.web.charts.evidence import BAND_SDS


class Forecasts(TypedDict):
    """One a stage: the winner's, at the step that it was made for, with the actual loss at the stage's end."""

    x: list[float]
    loss: list[float]
    bar: list[float]
    """From the forecast to the end of its whisker."""
    end: list[float]
    actual: list[float]
    text: list[str]
    curve: Line
    """What the winners' probes were extrapolated by, along the steps that were then committed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tested:
    """A forecast that came to its test."""

    stage: Stage
    probe: Probe
    loss: float
    sd: float
    actual: float

    def shown(self, loss: float) -> float:
        """A loss of this stage as people read it."""
        return self.stage.shown(loss)

    @property
    def right(self) -> bool:
        """Whether the actual loss lies within its whiskers."""
        return abs(self.actual - self.loss) <= BAND_SDS * self.sd

    @property
    def start(self) -> int:
        """The run step from which on it was extrapolated."""
        return self.stage.spans[0].start

    @property
    def end(self) -> float:
        """The run step at which it came to its test."""
        return float(self.stage.spans[-1].end)

    @property
    def extrapolation(self) -> Extrapolation | None:
        """What led to it; None: the decision does not tell."""
        return None if self.stage.decision is None else self.stage.decision.extrapolation


def ended(found: Timeline) -> list[Tested]:
    """The winners' forecasts of the stages that have ended."""
    return [outcome for stage in found.stages if (outcome := _tested(stage)) is not None]


def sentence(found: Timeline) -> str:
    """How good the forecasts were so far; empty before the first has come to its test."""
    if not any(stage.candidates for stage in found.stages):
        return ""
    if _measures(found):
        return "Probes are not extrapolated: each is a small run of its own, and its end is measured."
    outcomes = ended(found)
    if not outcomes:
        return ""
    right = sum(outcome.right for outcome in outcomes)
    n_stages = "1 stage" if len(outcomes) == 1 else f"{len(outcomes)} stages"
    return f"{right} of {n_stages} ended within {BAND_SDS:g} standard errors of the winner's forecast."


def forecasts(found: Timeline) -> Forecasts:
    """The forecasts for the chart of a job."""
    outcomes = ended(found)
    return {
        "x": [_at(outcome) for outcome in outcomes],
        "loss": [outcome.shown(outcome.loss) for outcome in outcomes],
        "bar": [BAND_SDS * outcome.sd for outcome in outcomes],
        "end": [outcome.end for outcome in outcomes],
        "actual": [outcome.shown(outcome.actual) for outcome in outcomes],
        "text": [_said(outcome) for outcome in outcomes],
        "curve": _curve(outcomes),
    }


def _measures(found: Timeline) -> bool:
    """Whether the ends of probes are measurements; where all diverged, the LR that was to decay says so."""
    judged = [candidate for stage in found.stages for candidate in stage.candidates if not candidate.diverged]
    return any(candidate.measured for candidate in judged) if judged else any(map(_decays, found.stages))


def _decays(stage: Stage) -> bool:
    profiles = [probe.directive.profile for probe in stage.probes if probe.directive.phase is Phase.PROBE]
    return any(profile is not None and profile.last_lr == 0 for profile in profiles)


def _tested(stage: Stage) -> Tested | None:
    best, winner, true = stage.best, stage.winner, actual_end(stage)
    if best is None or winner is None or best.forecast is None or not best.forecast_sd or true is None:
        return None
    if not all(math.isfinite(loss) for loss in (best.forecast, BAND_SDS * best.forecast_sd, true)):
        return None  # nothing can test it
    return Tested(stage, winner, best.forecast, best.forecast_sd, true)


def _at(outcome: Tested) -> float:
    """The run step that a forecast was made for: the last stage may have more."""
    found = outcome.extrapolation
    return outcome.end if found is None else float(outcome.start + found.horizon)


def _said(outcome: Tested) -> str:
    return (
        f"forecast {with_error(outcome.shown(outcome.loss), outcome.sd)}, "
        f"actual {outcome.stage.quantity}: {number(outcome.shown(outcome.actual))}"
    )


def _curve(outcomes: Sequence[Tested]) -> Line:
    line: Line = {"x": [], "y": []}
    for outcome in outcomes:
        found = outcome.extrapolation
        if found is not None:
            end = outcome.start + found.horizon
            line["x"] += [*np.linspace(outcome.start, end, len(found.losses)).tolist(), None]
            line["y"] += [*(outcome.shown(loss) if math.isfinite(loss) else None for loss in found.losses), None]
    return line
