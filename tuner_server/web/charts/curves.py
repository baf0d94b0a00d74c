"""The numbers behind a job's chart, thinned for the window that is looked at; drawing them is the browser's part."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

import numpy as np

from tuner_server.core.messages import Outcome, Phase
from tuner_server.history.stage import Span, Stage
from tuner_server.history.thinning import IntArray, Window, thinned
from tuner_server.history.timeline import Timeline
from tuner_server.history.words.changes import mark_label
from tuner_server.storage import Series
from tuner_server.web.charts.axes import of_losses, of_lrs

TREND_PARTS = 100
"""The means of a chart that show the way of a loss which scatters from batch to batch."""
LEAST_AVERAGED = 5
"""Steps of a part: means of fewer are as restless as the losses themselves."""
BUCKETS = 500
"""The parts of a whole chart: up to four points each, about one a pixel on a wide screen."""
BLOCK_STEPS = 2**18
"""Losses that are looked at together: what thinning takes is several times their bytes."""
MOST_VALIDATIONS = 5000
"""Validations of a job that are all drawn."""
MOST_LR_POINTS = 20_000
"""Points on the LR that are all drawn, of steps without others in between."""
LR_POINTS = 64
"""The points on the LR of one report's steps: a profile is smooth but for its corners, which are always drawn."""


class Line(TypedDict):
    """Points; where both are None the line is broken."""

    x: list[float | None]
    y: list[float | None]


class Broken(TypedDict):
    """Steps at which a loss was no number, or out of bounds, or their median above what was promised."""

    x: list[float]
    text: list[str]


class Changes(TypedDict):
    """Steps after which the plan changed."""

    x: list[float]
    text: list[str]


class Band(TypedDict):
    """A stage along the steps that were run: [search, start) was its search, [start, end) was committed."""

    index: int
    search: int
    start: int
    end: int


class JobCurves(TypedDict):
    """The chart of a job."""

    n_steps: int
    committed_loss: Line
    trend: Line
    """Means of the committed losses, each at the middle of `trend_steps` steps; none where single steps can be seen."""
    trend_steps: int
    search_loss: Line
    validation: Line
    committed_lr: Line
    search_lr: Line
    broken: Broken
    changes: Changes
    promised: Line
    """What the median loss was not to be above, where it was: over the steps of the report."""
    stages: list[Band]
    loss_range: list[float]
    """The lowest and the highest loss to be seen."""
    lr_range: list[float]


def job_curves(found: Timeline, window: Window) -> JobCurves:
    """The curves of a job within a window."""
    spans = [span for span in found.spans if span.end > window.start and span.start < window.end]
    kept, searched = [s for s in spans if s.kept], [s for s in spans if not s.kept]
    committed_loss, search_loss = _losses(kept, window), _losses(searched, window)
    committed_lr, search_lr = _lrs(kept, window), _lrs(searched, window)
    validation = _validations(kept, window, -1.0 if found.maximises else 1.0)
    tested = [s for s in searched if s.phase is Phase.RANGE_TEST]
    losses = of_losses([*committed_loss["y"], *validation["y"]], _untested(search_loss, tested))
    lrs = of_lrs(committed_lr["y"], _untested(search_lr, tested))
    trend_steps = max((window.end - window.start) // TREND_PARTS, 1)
    return {
        "n_steps": found.n_steps,
        "committed_loss": committed_loss,
        "trend": _trend(kept, window, trend_steps),
        "trend_steps": trend_steps,
        "search_loss": search_loss,
        "validation": validation,
        "committed_lr": committed_lr,
        "search_lr": search_lr,
        "broken": _broken(spans),
        "changes": {
            "x": [mark.step + 0.5 for mark in found.changes],
            "text": [mark_label(mark) for mark in found.changes],
        },
        "promised": _promised(found.stages),
        "stages": [band for stage in found.stages if (band := _band(stage)) is not None],
        "loss_range": [losses.low, losses.high],
        "lr_range": [lrs.low, lrs.high],
    }


def _losses(spans: Sequence[Span], window: Window) -> Line:
    """One line, broken wherever steps of another kind came between."""
    validated = np.array(sorted(_validated(spans, window)), dtype=np.int64)
    parts: list[tuple[list[float], list[float | None]]] = []
    last = None
    for steps, losses in _blocks(spans, window):
        within = validated[(validated >= steps[0]) & (validated <= steps[-1])]
        at = np.union1d(thinned(steps, losses, window), np.searchsorted(steps, within))
        cuts = np.cumsum(np.diff(steps, prepend=steps[0]) > 1)[at]
        # A loss is known after its step, and its LR holds during it: both are drawn at the step's number, from 1.
        numbers, values = (steps[at] + 1).tolist(), losses[at].tolist()
        shown = [value if math.isfinite(value) else None for value in values]
        ends = itertools.pairwise((0, *(np.flatnonzero(np.diff(cuts)) + 1).tolist(), len(at)))
        found = [(numbers[low:high], shown[low:high]) for low, high in ends]
        if parts and last == steps[0] - 1:
            parts[-1][0].extend(found[0][0])
            parts[-1][1].extend(found[0][1])
            del found[0]
        parts += found
        last = steps[-1]
    return _joined(parts)


def _untested(line: Line, tested: Sequence[Span]) -> list[float | None]:
    """The values of a search without those of range tests, which reach far beyond what is worth seeing near by.

    Where there is no other, all are given.
    """
    within = [(span.start, span.end) for span in tested]
    others = [
        y
        for x, y in zip(line["x"], line["y"], strict=True)
        if x is not None and not any(start < x <= end for start, end in within)
    ]
    return others or line["y"]


def _blocks(spans: Sequence[Span], window: Window) -> Iterator[tuple[IntArray, Series]]:
    """The steps of spans in a window, and their losses, some hundred thousand at a time: whole parts of the window."""
    edges = window.edges
    width = max((window.end - window.start) // max(len(edges) - 1, 1), 1)
    every = max(BLOCK_STEPS // width, 1)
    left = collections.deque(spans)
    for low, high in itertools.pairwise(sorted({*edges[::every].tolist(), int(edges[-1])})):
        steps, losses = [], []
        while left and left[0].start < high:
            span = left[0]
            first, end = max(span.start, low), min(span.end, high)
            if first < end:
                steps.append(np.arange(first, end))
                losses.append(span.losses[first - span.start : end - span.start])
            if span.end > high:
                break
            left.popleft()
        if steps:
            yield np.concatenate(steps), np.concatenate(losses)


def _joined(parts: Iterable[tuple[Sequence[float], Sequence[float | None]]]) -> Line:
    """One line of several unbroken ones."""
    x: list[float | None] = []
    y: list[float | None] = []
    for steps, values in parts:
        if x:
            x.append(None)
            y.append(None)
        x += steps
        y += values
    return {"x": x, "y": y}


def _trend(spans: Sequence[Span], window: Window, n_steps: int) -> Line:
    """Means over so many steps each, from the beginning of each piece without other steps in between."""
    return _joined(_means(piece, window, n_steps) for piece in _pieces(spans) if n_steps >= LEAST_AVERAGED)


def _means(piece: Sequence[Span], window: Window, n_steps: int) -> tuple[list[float], list[float | None]]:
    start = piece[0].start
    # Where the window begins within a piece the parts stay where they are: moving along, one sees the same curve.
    first = max(window.start - start, 0) // n_steps * n_steps
    losses = np.concatenate([span.losses for span in piece])[first : window.end - start]
    starts = np.arange(0, len(losses), n_steps)
    if len(starts) > 1 and len(losses) - starts[-1] < LEAST_AVERAGED:
        starts = starts[:-1]
    counts = np.diff(starts, append=len(losses))
    middles = (start + first + starts + (counts + 1) / 2).tolist()
    return middles, [_mean(losses[low : low + n]) for low, n in zip(starts.tolist(), counts.tolist(), strict=True)]


def _mean(losses: Series) -> float | None:
    """The mean of those that are numbers; None: there are none."""
    finite = np.isfinite(losses)
    total, n = np.add.reduceat(np.where(finite, losses.astype(np.float64), 0.0), [0]), int(finite.sum())
    return float(total[0]) / n if n else None


def _pieces(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans by themselves, but those that follow each other without other steps in between together."""
    pieces: list[list[Span]] = []
    for span in spans:
        if pieces and pieces[-1][-1].end == span.start:
            pieces[-1].append(span)
        else:
            pieces.append([span])
    return pieces


def _validated(spans: Sequence[Span], window: Window) -> list[int]:
    """The steps in the window after which a validation came: whoever points at one sees its loss, too."""
    found = [span.start + v.step - 1 for span in spans for v in span.validations if v.step > 0]
    if len(found) > MOST_VALIDATIONS:
        return []  # they are thinned, too
    return [step for step in found if window.start <= step < window.end]


def _validations(spans: Sequence[Span], window: Window, sign: float) -> Line:
    """The validations times a sign; of very many those that a chart can show."""
    steps = [span.start + v.step for span in spans for v in span.validations]
    losses = [sign * v.loss for span in spans for v in span.validations]
    if len(steps) > MOST_VALIDATIONS:
        return _thinned(steps, losses, window)
    return {"x": [float(step) for step in steps], "y": [*losses]}


def _thinned(steps: Sequence[int], values: Sequence[float], window: Window) -> Line:
    """Points with ascending steps, of which a chart shows no more than four to a part."""
    at = np.array(steps, dtype=np.int64)
    parts = np.unique(np.searchsorted(window.edges, at, side="right"), return_index=True)[1]
    ends = np.append(parts[1:], len(at)) - 1
    array = np.array(values, dtype=np.float64)
    lows = [int(low + array[low : end + 1].argmin()) for low, end in zip(parts, ends, strict=True)]
    highs = [int(low + array[low : end + 1].argmax()) for low, end in zip(parts, ends, strict=True)]
    kept = np.unique([*parts.tolist(), *ends.tolist(), *lows, *highs])
    return {"x": at[kept].astype(np.float64).tolist(), "y": array[kept].tolist()}


def _lrs(spans: Sequence[Span], window: Window) -> Line:
    """The LRs of spans as one line."""

    def points(piece: Sequence[Span]) -> tuple[list[float], list[float | None]]:
        found = [(span, step) for span in piece for step in _lr_points(span, window)]
        if len(found) > MOST_LR_POINTS:
            line = _thinned(
                [span.start + 1 + step for span, step in found], [span.profile.lr(step) for span, step in found], window
            )
            return [x for x in line["x"] if x is not None], line["y"]
        return [float(span.start + 1 + step) for span, step in found], [span.profile.lr(step) for span, step in found]

    return _joined(map(points, _pieces(spans)))


def _lr_points(span: Span, window: Window) -> list[int]:
    """The steps of a report at which its LR is drawn: evenly, and at the corners of its profile."""
    first, last = max(span.start, window.start) - span.start, min(span.end, window.end) - span.start - 1
    profile = span.profile
    corners = [c for c in (profile.warmup - profile.offset, profile.length - profile.offset) if first < c < last]
    # As dense as the chart is: a report of few steps in a long run needs few points.
    width = (window.end - window.start) / window.buckets
    n_parts = int(min(max((last - first) / width, 2), LR_POINTS)) - 1
    return sorted({*(first + round(i * (last - first) / n_parts) for i in range(n_parts + 1)), *corners})


def _broken(spans: Iterable[Span]) -> Broken:
    x: list[float] = []
    text: list[str] = []
    for span in spans:
        bad = np.flatnonzero(~np.isfinite(span.losses))
        if len(bad):
            x.append(float(span.start + 1 + bad[0]))
            text.append("NaN" if np.isnan(span.losses[bad[0]]) else "infinite")
        elif span.outcome.rolls_back:
            x.append(float(span.end))
            text.append("diverged" if span.outcome is Outcome.DIVERGED else "fell short of its promise")
    return {"x": x, "text": text}


def _promised(stages: Iterable[Stage]) -> Line:
    """A level for each stage that fell short."""
    found = [(stage.spans[-1], stage.undoing.bar) for stage in stages if stage.undoing is not None]
    levels = [(span, bar) for span, bar in found if bar is not None]
    return _joined(([float(span.start + 1), float(span.end)], [bar, bar]) for span, bar in levels)


def _band(stage: Stage) -> Band | None:
    searched = [probe.span for probe in stage.probes if probe.span is not None]
    spans = [*searched, *stage.spans]
    if not spans:
        return None
    start = stage.spans[0].start if stage.spans else spans[-1].end
    return {"index": stage.index, "search": spans[0].start, "start": start, "end": spans[-1].end}
