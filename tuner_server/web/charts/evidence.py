"""The numbers behind the charts of a decision: what was tried, what was thought of it, and the actual losses."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np

from tuner_server.core.config import JobConfig
from tuner_server.core.messages import BatchSource, Candidate, Decision, PosteriorCurve
from tuner_server.history.stage import Probe, Span, Stage
from tuner_server.history.thinning import FloatArray, Window, thinned
from tuner_server.history.words.method import acquisition_name, correction
from tuner_server.history.words.numbers import number, with_error
from tuner_server.history.words.reasons import actual_end
from tuner_server.web.charts.axes import Range, fence, of_losses, shown
from tuner_server.web.charts.curves import BUCKETS, Line

PROBE_BUCKETS = 60
"""The parts of one probe's curve in a chart of many."""
BAND_SDS = 2.0
"""Standard errors on either side: of the surrogate's band, and of what was forecast."""
ACQUISITION_SHOWN = 0.75
"""The upper part of its values: a logarithm of an improvement falls off a cliff where none is to be had."""
PROBE_END = 10
"""Last losses of a probe: their median is where it got to."""


class ProbeCurve(TypedDict):
    """A probe of a stage."""

    lr: float
    name: str
    chosen: bool
    diverged: bool
    losses: Line
    validations: Line


class RangeTest(TypedDict):
    """Loss over LR."""

    losses: Line
    range: list[float]
    """The lowest and the highest loss that the chart shows."""


class Beyond(TypedDict):
    """What leaves the plot, each with the edge at which it does."""

    lr: list[float]
    above: list[bool]
    text: list[str]


class Posterior(TypedDict):
    """What the surrogate thought, over LRs."""

    lr: list[float]
    mean: list[float]
    low: list[float]
    """The band around the mean."""
    high: list[float]


class Acquisition(TypedDict):
    """How much LRs were worth trying, when the last probe was chosen."""

    name: str
    lr: list[float]
    value: list[float]
    range: list[float]
    """The lowest and the highest value that the chart shows."""


class Corrected(TypedDict):
    """From the best LR of short runs to the one that was committed."""

    lr: float
    """The best one of short runs."""
    loss: float | None
    """What the surrogate expects of it."""
    ratio: str
    """The committed LR over that one."""
    way: str
    """What led from it to the committed one, in words."""


class StageCurves(TypedDict):
    """The charts of a decision."""

    range_test: RangeTest | None
    probes: list[ProbeCurve]
    probe_range: list[float]
    """The lowest and the highest loss of probes that the chart shows."""
    relative: bool
    """Whether their losses are those above the winner's at the same step: those of the same batches can be compared."""
    candidate_lr: list[float]
    candidate_loss: list[float | None]
    candidate_bar: list[float]
    """From a forecast to the end of its whisker."""
    candidate_text: list[str]
    posterior: Posterior | None
    acquisition: Acquisition | None
    corrected: Corrected | None
    lr: float | None
    actual: float | None
    loss_range: list[float]
    """The lowest and the highest loss of candidates and posterior that the chart shows."""
    beyond: Beyond
    band_leaves: bool
    """Whether the posterior does."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Bar:
    """A loss at an LR, and how sure of it one was."""

    lr: float
    loss: float
    half: float
    text: str

    @property
    def low(self) -> float:
        """Its lower end."""
        return self.loss - self.half

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.loss + self.half


def stage_curves(stage: Stage, config: JobConfig) -> StageCurves:
    """The evidence behind a stage of such a job."""
    candidates = stage.candidates
    posterior = None if stage.posterior is None else _posterior(stage.posterior, -1.0 if stage.of_metric else 1.0)
    true = _shown(stage, actual_end(stage))
    bars = _bars(stage, true)
    axis = _loss_axis(stage, bars, posterior)
    compared = _compared(stage)
    probes = [_probe_curve(p, p.span, stage, compared) for p in _trained(stage) if p.span is not None]
    return {
        "range_test": next((_range_test(p.span) for p in stage.tried if p.is_range_test and p.span), None),
        "probes": probes,
        "probe_range": _probe_range(probes),
        "relative": compared is not None,
        "candidate_lr": [candidate.lr for candidate in candidates],
        "candidate_loss": [_drawn(_shown(stage, candidate.forecast)) for candidate in candidates],
        "candidate_bar": [_drawn_bar(candidate, axis) for candidate in candidates],
        "candidate_text": [_said(stage, candidate) for candidate in candidates],
        "posterior": posterior,
        "acquisition": _acquisition(stage.sought),
        "corrected": _corrected(stage, config),
        "lr": None if stage.decision is None or stage.directive is None else stage.decision.lr,
        "actual": _drawn(true),
        "loss_range": [axis.low, axis.high],
        "beyond": _beyond(bars, axis),
        "band_leaves": posterior is not None
        and any(edge not in axis for edge in (*posterior["low"], *posterior["high"])),
    }


def _shown(stage: Stage, loss: float | None) -> float | None:
    """A loss that a stage's probes were judged by, as people read it; None of None."""
    return None if loss is None else stage.shown(loss)


def _posterior(curve: PosteriorCurve, sign: float) -> Posterior:
    """The surrogate's curve times a sign."""
    edges = {
        name: [_finite(sign * mean + side * BAND_SDS * sd) for mean, sd in zip(curve.mean, curve.sd, strict=True)]
        for name, side in (("low", -1.0), ("high", 1.0))
    }
    return {
        "lr": list(curve.lr),
        "mean": [_finite(sign * mean) for mean in curve.mean],
        "low": edges["low"],
        "high": edges["high"],
    }


def _acquisition(sought: Decision | None) -> Acquisition | None:
    if sought is None or sought.posterior is None:
        return None
    curve = sought.posterior
    value = [_finite(v) for v in curve.acquisition]
    low, high = np.quantile(value, (1 - ACQUISITION_SHOWN, 1.0)).tolist()
    axis = shown([low, high], Range(-math.inf, math.inf))
    return {
        "name": acquisition_name(sought),
        "lr": list(curve.lr),
        "value": value,
        "range": [axis.low, axis.high],
    }


def _corrected(stage: Stage, config: JobConfig) -> Corrected | None:
    found, curve = correction(stage, config), stage.posterior
    if found is None or stage.decision is None:
        return None
    expected = None
    if curve is not None:
        expected = _finite(stage.shown(float(np.interp(math.log(found.optimum), np.log(curve.lr), curve.mean))))
    way = f"× {found.factor:.2g} for the longer run"
    if found.drawn_to is not None:
        way += f", drawn towards {number(found.drawn_to)}"
    if found.lowered:
        way += ", lowered further"
    ratio = f"× {stage.decision.lr / found.optimum:.2g}"
    return {"lr": found.optimum, "loss": expected, "ratio": ratio, "way": way}


def _loss_axis(stage: Stage, bars: Sequence[_Bar], posterior: Posterior | None) -> Range:
    """An axis for the losses that were forecast, expected and actual, with their errors, within a reasonable size.

    What that is, the forecasts say together with where the probes got to: a forecast may be wild, a measurement is not.
    """
    ends = [
        float(np.median(probe.span.losses[-PROBE_END:].astype(np.float64)))
        for probe in _trained(stage)
        if probe.span is not None and not (probe.diverged or probe.unrepeatable)
    ]
    expected = [] if posterior is None else [*posterior["mean"], *posterior["low"], *posterior["high"]]
    losses = [bar.loss for bar in bars]
    edges = [edge for bar in bars for edge in (bar.low, bar.high)]
    return shown([*losses, *edges, *expected], fence([*losses, *ends]))


def _bars(stage: Stage, true: float | None) -> list[_Bar]:
    """The forecasts of the candidates, and the actual loss."""
    bars = []
    for candidate in stage.candidates:
        if candidate.forecast is not None:
            forecast = stage.shown(candidate.forecast)
            bars.append(_Bar(candidate.lr, forecast, _bar(candidate), _said(stage, candidate)))
    if true is not None and stage.decision is not None:
        bars.append(_Bar(stage.decision.lr, true, 0.0, f"actual {stage.quantity}: {number(true)}"))
    return bars


def _bar(candidate: Candidate) -> float:
    return BAND_SDS * (candidate.forecast_sd or 0.0)


def _drawn_bar(candidate: Candidate, axis: Range) -> float:
    """The bar as it is, but no longer than it takes to leave the plot: browsers can't draw just any length."""
    forecast, bar = _drawn(candidate.forecast), _bar(candidate)
    if forecast is None or math.isnan(bar):
        return 0.0
    beyond_both_edges = 2.0 * (abs(forecast) + abs(axis.low) + abs(axis.high))
    return max(min(bar, beyond_both_edges, sys.float_info.max), 0.0)


def _said(stage: Stage, candidate: Candidate) -> str:
    if candidate.forecast is None:
        return f"LR {number(candidate.lr)} diverged"
    forecast, sd = stage.shown(candidate.forecast), candidate.forecast_sd
    return f"LR {number(candidate.lr)}: {with_error(forecast, sd) if sd else number(forecast)}"


def _beyond(bars: Iterable[_Bar], axis: Range) -> Beyond:
    found: Beyond = {"lr": [], "above": [], "text": []}
    for bar in bars:
        for above, leaves in ((False, bar.low < axis.low), (True, bar.high > axis.high)):
            if leaves:
                found["lr"].append(bar.lr)
                found["above"].append(above)
                found["text"].append(f"{bar.text}, beyond the plot")
    return found


def _drawn(loss: float | None) -> float | None:
    """A loss that has a place in a plot; None: it has none, as it is infinite or no number."""
    return loss if loss is not None and math.isfinite(loss) else None


def _finite(value: float) -> float:
    """JSON has no infinity; an acquisition far down is as good as the lowest double."""
    return value if math.isfinite(value) else math.copysign(1e300, value)


def _trained(stage: Stage) -> list[Probe]:
    """The probes at one LR."""
    return [probe for probe in stage.tried if not probe.is_range_test]


def _compared(stage: Stage) -> Span | None:
    """The winner's steps, where the others had the same batches: what is left of a difference is the LR's."""
    winner, probes = stage.winner, [probe for probe in _trained(stage) if probe.span is not None]
    if winner is None or len(probes) < 2 or any(p.directive.batches is not BatchSource.REPLAYED for p in probes):
        return None
    return winner.span


def _range_test(span: Span) -> RangeTest:
    at = thinned(np.arange(span.n_steps), span.losses, Window(0, span.n_steps, BUCKETS))
    losses = span.losses[at].tolist()
    shown = [loss if math.isfinite(loss) else None for loss in losses]
    axis = of_losses(shown, [])
    return {
        "losses": {"x": [span.profile.lr(step) for step in at.tolist()], "y": shown},
        "range": [axis.low, axis.high],
    }


def _probe_range(probes: Sequence[ProbeCurve]) -> list[float]:
    """An axis for the losses of the probes that came to their end, up to where the worst of them ended at least."""
    sound = [probe for probe in probes if not probe["diverged"]] or probes
    lines = [[y for y in (*probe["losses"]["y"], *probe["validations"]["y"]) if y is not None] for probe in sound]
    axis = of_losses([y for line in lines for y in line], [])
    ends = [float(np.median(line[-PROBE_END:])) for line in lines if line]
    return [axis.low, max(axis.high, *ends)] if ends else [axis.low, axis.high]


def _probe_curve(probe: Probe, span: Span, stage: Stage, compared: Span | None) -> ProbeCurve:
    values, validations = span.losses.astype(np.float64), _validations(stage, span)
    if compared is not None:
        values = _above(values, compared.losses.astype(np.float64))
        base = _validations(stage, compared)
        validations = {step: loss - base[step] for step, loss in validations.items() if step in base}
    at = thinned(np.arange(len(values)), values, Window(0, max(len(values), 1), PROBE_BUCKETS))
    losses = values[at].tolist()
    return {
        "lr": probe.lr,
        "name": f"LR {number(probe.lr)}" + (", not repeatable" if probe.unrepeatable else ""),
        "chosen": probe is stage.winner,
        "diverged": probe.diverged,
        "losses": {"x": (at + 1).tolist(), "y": [loss if math.isfinite(loss) else None for loss in losses]},
        "validations": {"x": list(validations), "y": list(validations.values())},
    }


def _validations(stage: Stage, span: Span) -> dict[float, float]:
    """The validations of a probe by their steps, as people read them."""
    return {float(v.step): stage.shown(v.loss) for v in span.validations}


def _above(losses: FloatArray, others: FloatArray) -> FloatArray:
    """How far losses are above others, at the steps that both have."""
    n_steps = min(len(losses), len(others))
    with np.errstate(invalid="ignore"):  # infinity less infinity is no number, and drawn as none
        difference: FloatArray = losses[:n_steps] - others[:n_steps]
    return difference
