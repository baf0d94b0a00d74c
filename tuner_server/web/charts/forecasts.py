"""Forecasts against what then came true, over all stages of a job."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from tuner_server.core import policies
from tuner_server.core.config import JobConfig
from tuner_server.core.forecast import Curve, Objective
from tuner_server.core.messages import Candidate
from tuner_server.core.policies.autolrs import AutoLrs
from tuner_server.history import method
from tuner_server.history.numbers import number, with_error
from tuner_server.history.reasons import came_true
from tuner_server.history.timeline import Probe, Stage, Timeline
from tuner_server.web.charts.curves import Line
from tuner_server.web.charts.evidence import BAND_SDS

CURVE_POINTS = 33
"""Of a forecaster's curve over a stage: it is smooth."""
MAX_FITS = 4096
"""That are kept, of all jobs: some 2 KB each."""
SAME_FORECAST = 1e-6
"""A curve that is fitted anew is the policy's own if it forecasts the same, but for another machine's rounding."""


class Forecasts(TypedDict):
    """One a stage: the winner's, at the step that it was made for, with what came true at the stage's end."""

    x: list[float]
    loss: list[float]
    bar: list[float]
    """From the forecast to the end of its whisker."""
    end: list[float]
    came_true: list[float]
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
    came_true: float

    @property
    def right(self) -> bool:
        """Whether it came true within its whiskers."""
        return abs(self.came_true - self.loss) <= BAND_SDS * self.sd


@dataclasses.dataclass(frozen=True, slots=True)
class _Fit:
    """A forecaster's curve along the committed steps."""

    horizon: int
    """Committed steps, from the stage's start."""
    losses: tuple[float, ...]
    """[CURVE_POINTS] evenly from the start to the horizon."""


def ended(found: Timeline) -> list[Tested]:
    """The winners' forecasts of the stages that have ended."""
    return [outcome for stage in found.stages if (outcome := _tested(stage)) is not None]


def sentence(config: JobConfig, found: Timeline) -> str:
    """How good the forecasts were so far; empty before the first has come to its test."""
    if not any(stage.candidates for stage in found.stages):
        return ""
    if not method.forecasts(config):
        return "Probes are not extrapolated: each is a small run of its own, and its end is measured."
    outcomes = ended(found)
    if not outcomes:
        return ""
    right = sum(outcome.right for outcome in outcomes)
    n_stages = "1 stage" if len(outcomes) == 1 else f"{len(outcomes)} stages"
    return f"{right} of {n_stages} ended within {BAND_SDS:g} standard errors of the winner's forecast."


def forecasts(config: JobConfig, found: Timeline) -> Forecasts:
    """For the chart of a job."""
    outcomes = ended(found)
    config_text = config.model_dump_json()
    fits = [_fit(config, config_text, outcome) for outcome in outcomes]
    starts = [outcome.stage.spans[0].start for outcome in outcomes]
    ends = [float(outcome.stage.spans[-1].end) for outcome in outcomes]
    return {
        "x": [e if f is None else float(s + f.horizon) for s, e, f in zip(starts, ends, fits, strict=True)],
        "loss": [outcome.loss for outcome in outcomes],
        "bar": [BAND_SDS * outcome.sd for outcome in outcomes],
        "end": ends,
        "came_true": [outcome.came_true for outcome in outcomes],
        "text": [_said(outcome) for outcome in outcomes],
        "curve": _curve(starts, fits),
    }


def _tested(stage: Stage) -> Tested | None:
    best, winner, true = stage.best, stage.winner, came_true(stage)
    if best is None or winner is None or best.forecast is None or not best.forecast_sd or true is None:
        return None
    return Tested(stage, winner, best.forecast, best.forecast_sd, true)


def _said(outcome: Tested) -> str:
    return f"forecast {with_error(outcome.loss, outcome.sd)}, came true: {number(outcome.came_true)}"


def _curve(starts: Sequence[int], fits: Sequence[_Fit | None]) -> Line:
    line: Line = {"x": [], "y": []}
    for start, fit in zip(starts, fits, strict=True):
        if fit is not None:
            line["x"] += [*np.linspace(start, start + fit.horizon, CURVE_POINTS).tolist(), None]
            line["y"] += [*fit.losses, None]
    return line


_fits: OrderedDict[tuple[str, Candidate, int], _Fit | None] = OrderedDict()
"""By config, winner and committed steps: a fit takes some milliseconds, and a live job is laid out anew at each report,
with all its stages that have long ended."""
_fits_lock = threading.Lock()


def _fit(config: JobConfig, config_text: str, outcome: Tested) -> _Fit | None:
    """What `_fitted` gives, made once. The winner's forecast, exact to the last bit, stands for its losses."""
    stage = outcome.stage
    assert stage.best is not None
    key = config_text, stage.best, stage.directive.n_steps if stage.directive is not None else 0
    with _fits_lock:
        if key in _fits:
            _fits.move_to_end(key)
            return _fits[key]
    found = _fitted(config, outcome)
    with _fits_lock:
        _fits[key] = found
        while len(_fits) > MAX_FITS:
            _fits.popitem(last=False)
    return found


def _fitted(config: JobConfig, outcome: Tested) -> _Fit | None:
    """The policy's curve, fitted anew to the winner's probe; None if it is not what the policy had."""
    policy, span = policies.make(config), outcome.probe.span
    if not isinstance(policy, AutoLrs) or span is None:
        return None
    validated = bool(outcome.probe.directive.validate_at)
    losses = [validation.loss for validation in span.validations] if validated else span.losses
    if not len(losses) or not np.isfinite(losses).all():
        return None
    interval = span.n_steps / len(losses) if validated else 1.0
    curve = policy.forecaster(Objective.VALIDATION if validated else Objective.TRAINING).fit(np.asarray(losses))
    for horizon in _horizons(policy, outcome.stage):
        if math.isclose(curve.predict(horizon / interval).loss, outcome.loss, rel_tol=SAME_FORECAST):
            return _Fit(horizon, _values(curve, horizon / interval))
    return None


def _horizons(policy: AutoLrs, stage: Stage) -> Iterator[int]:
    """What tau may have been: the stage's committed steps, of which the last stage may have more."""
    assert stage.directive is not None
    total = policy.config.total_steps
    tau, _ = policy.options.first_stage(total)
    largest = policy.options.largest_tau(total)
    doubled = itertools.takewhile(lambda tau: tau < largest, (tau * 2**n for n in itertools.count()))
    return itertools.chain((stage.directive.n_steps, largest), doubled)


def _values(curve: Curve, horizon: float) -> tuple[float, ...]:
    return tuple(curve.predict(x).loss for x in np.linspace(0.0, horizon, CURVE_POINTS).tolist())
