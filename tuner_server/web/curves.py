"""The numbers behind the charts, thinned for the window that is looked at; how they are drawn is the browser's part."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict

import numpy as np

from tuner_server.core.messages import Phase
from tuner_server.web.explain import came_true
from tuner_server.web.thinning import IntArray, Window, thinned
from tuner_server.web.timeline import Probe, Span, Stage, Timeline

BUCKETS = 500
"""Of a whole chart: up to four points each, about one a pixel on a wide screen."""
PROBE_BUCKETS = 60
"""Of one probe's curve in a chart of many."""
LR_POINTS = 64
"""On the LR of one report's steps: a profile is smooth but for its corners, which are always drawn."""


class Line(TypedDict):
    """Points; where both are None the line is broken."""

    x: list[float | None]
    y: list[float | None]


class Broken(TypedDict):
    """Steps at which a loss was no number, or out of bounds."""

    x: list[float]
    text: list[str]


class Band(TypedDict):
    """A stage along the steps that were run: [search, start) was its search, [start, end) was committed."""

    index: int
    search: int
    start: int
    end: int
    lr: float | None


class JobCurves(TypedDict):
    """The chart of a job."""

    start: int
    end: int
    n_steps: int
    committed_loss: Line
    search_loss: Line
    validation: Line
    committed_lr: Line
    search_lr: Line
    broken: Broken
    stages: list[Band]


class ProbeCurve(TypedDict):
    """A probe of a stage."""

    lr: float
    name: str
    chosen: bool
    diverged: bool
    losses: Line
    validations: Line


class StageCurves(TypedDict):
    """The charts of a decision."""

    range_test: Line | None
    """Loss over LR."""
    probes: list[ProbeCurve]
    candidate_lr: list[float]
    candidate_loss: list[float | None]
    candidate_sd: list[float]
    candidate_at_least: list[float | None]
    posterior: dict[str, list[float]] | None
    lr: float | None
    came_true: float | None


def job_curves(found: Timeline, window: Window) -> JobCurves:
    """The curves of a job within a window, with one point beyond each end where there is one."""
    spans = [span for span in found.spans if span.end > window.start and span.start < window.end]
    kept, searched = [s for s in spans if s.kept], [s for s in spans if not s.kept]
    return {
        "start": window.start,
        "end": window.end,
        "n_steps": found.n_steps,
        "committed_loss": _joined((span, _losses(span, window)) for span in kept),
        "search_loss": _joined((span, _losses(span, window)) for span in searched),
        "validation": {
            "x": [float(span.start + v.step) for span in kept for v in span.validations],
            "y": [v.loss for span in kept for v in span.validations],
        },
        "committed_lr": _joined((span, _lrs(span, window)) for span in kept),
        "search_lr": _joined((span, _lrs(span, window)) for span in searched),
        "broken": _broken(spans),
        "stages": [band for stage in found.stages if (band := _band(stage)) is not None],
    }


def stage_curves(stage: Stage) -> StageCurves:
    """The evidence behind a stage."""
    candidates = stage.candidates
    posterior = stage.posterior
    chosen = None if stage.decision is None or stage.directive is None else stage.decision.lr
    return {
        "range_test": next((_range_test(p.span) for p in stage.probes if _tests_range(p) and p.span), None),
        "probes": [_probe_curve(p, p.span, stage) for p in stage.probes if p.span is not None and not _tests_range(p)],
        "candidate_lr": [candidate.lr for candidate in candidates],
        "candidate_loss": [candidate.forecast for candidate in candidates],
        "candidate_sd": [candidate.forecast_sd or 0.0 for candidate in candidates],
        "candidate_at_least": [candidate.at_least for candidate in candidates],
        "posterior": None
        if posterior is None
        else {name: [_finite(v) for v in getattr(posterior, name)] for name in ("lr", "mean", "sd", "acquisition")},
        "lr": chosen,
        "came_true": came_true(stage),
    }


def _finite(value: float) -> float:
    """JSON has no infinity; an acquisition far down is as good as the lowest double."""
    return value if math.isfinite(value) else math.copysign(1e300, value)


def _joined(pieces: Iterable[tuple[Span, tuple[IntArray, list[float]]]]) -> Line:
    """Pieces as one line, broken wherever steps of another kind came between."""
    x: list[float | None] = []
    y: list[float | None] = []
    end = None
    for span, (at, values) in pieces:
        if end is not None and span.start != end:
            x.append(None)
            y.append(None)
        end = span.end
        # A loss is known after its step, and its LR holds during it: both are drawn at the step's number, from 1.
        x += (span.start + 1 + at).tolist()
        y += [value if math.isfinite(value) else None for value in values]
    return {"x": x, "y": y}


def _losses(span: Span, window: Window) -> tuple[IntArray, list[float]]:
    at = thinned(span.start, span.losses, window)
    return at, span.losses[at].tolist()


def _lrs(span: Span, window: Window) -> tuple[IntArray, list[float]]:
    first, last = max(span.start, window.start) - span.start, min(span.end, window.end) - span.start - 1
    profile = span.profile
    corners = [c for c in (profile.warmup - profile.offset, profile.length - profile.offset) if first < c < last]
    # As dense as the chart is: a report of few steps in a long run needs few points.
    width = (window.end - window.start) / window.buckets
    n_points = int(min(max((last - first) / width, 2), LR_POINTS))
    at = np.unique(np.concatenate([np.linspace(first, last, n_points).round(), corners])).astype(np.int64)
    return at, [profile.lr(step) for step in at.tolist()]


def _broken(spans: Iterable[Span]) -> Broken:
    x: list[float] = []
    text: list[str] = []
    for span in spans:
        bad = np.flatnonzero(~np.isfinite(span.losses))
        if len(bad):
            x.append(float(span.start + 1 + bad[0]))
            text.append("NaN" if np.isnan(span.losses[bad[0]]) else "infinite")
        elif span.outcome == "diverged":
            x.append(float(span.end))
            text.append("diverged")
    return {"x": x, "text": text}


def _band(stage: Stage) -> Band | None:
    searched = [probe.span for probe in stage.probes if probe.span is not None]
    spans = [*searched, *stage.spans]
    if not spans:
        return None
    start = stage.spans[0].start if stage.spans else spans[-1].end
    return {"index": stage.index, "search": spans[0].start, "start": start, "end": spans[-1].end, "lr": stage.lr}


def _tests_range(probe: Probe) -> bool:
    return probe.directive.phase is Phase.RANGE_TEST


def _range_test(span: Span) -> Line:
    at = thinned(0, span.losses, Window(0, span.n_steps, BUCKETS))
    losses = span.losses[at].tolist()
    return {
        "x": [span.profile.lr(step) for step in at.tolist()],
        "y": [loss if math.isfinite(loss) else None for loss in losses],
    }


def _probe_curve(probe: Probe, span: Span, stage: Stage) -> ProbeCurve:
    at = thinned(0, span.losses, Window(0, span.n_steps, PROBE_BUCKETS))
    losses = span.losses[at].tolist()
    return {
        "lr": probe.lr,
        "name": f"LR {probe.lr:.3g}",
        "chosen": stage.best is not None and stage.best.directive_number == probe.directive.number,
        "diverged": probe.diverged,
        "losses": {"x": (at + 1).tolist(), "y": [loss if math.isfinite(loss) else None for loss in losses]},
        "validations": {"x": [float(v.step) for v in span.validations], "y": [v.loss for v in span.validations]},
    }
