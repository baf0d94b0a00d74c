"""Curves as SVG, drawn on the server: there before any script runs, and all there is in a list.

No colour is set here: the style sheet gives it, light or dark.
"""

from __future__ import annotations

import numpy as np
from lrpilot.wire.axes import height

from tuner_server.history.thinning import Window
from tuner_server.history.timeline import Timeline
from tuner_server.web.charts.axes import Range, of_losses
from tuner_server.web.charts.curves import Line, job_curves

SPARK_WIDTH, SPARK_HEIGHT = 120, 28
SPARK_POINTS = 60
SPARK_COLOUR = "#3b82c4"
"""An image of its own is outside the style sheet: a blue that can be seen on white and on black."""
WIDTH, LOSS_HEIGHT, LR_HEIGHT, GAP = 960, 190, 120, 18
BUCKETS = 240
"""The parts of the overview, which stands for the chart for a moment only, and is to be there soon."""


def sparkline(found: Timeline) -> str:
    """The committed loss in miniature, as an SVG file: means of equal parts, since its way is what counts here.

    A part whose mean exploded is drawn at the upper edge.
    """
    losses = found.committed_losses()
    parts = np.array_split(losses[np.isfinite(losses)], SPARK_POINTS)
    means: list[float | None] = [float(part.mean(dtype=np.float64)) for part in parts if len(part)]
    line: Line = {"x": [float(i) for i in range(len(means))], "y": means}
    path = _path(line, max(len(means) - 1, 1), SPARK_WIDTH, _Scale(of_losses(means, means), 2, SPARK_HEIGHT - 2))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}">'
        f'<path d="{path}" fill="none" stroke="{SPARK_COLOUR}" stroke-width="1.5"/></svg>'
    )


def overview(found: Timeline) -> str:
    """Loss above LR over all steps, as an element of a page."""
    curves = job_curves(found, Window(0, max(found.n_steps, 1), BUCKETS))
    end = max(curves["n_steps"], 1)
    loss = _Scale(Range(*curves["loss_range"]), 4, LOSS_HEIGHT)
    top = LOSS_HEIGHT + GAP
    lr = _Scale(Range(*curves["lr_range"]), top, top + LR_HEIGHT)
    bands = "".join(
        f'<rect class="{"search-band" if search else "stage-band"}" x="{WIDTH * a / end:.1f}" y="0" '
        f'width="{WIDTH * (b - a) / end:.1f}" height="{top + LR_HEIGHT}"/>'
        for stage in curves["stages"]
        for a, b, search in ((stage["search"], stage["start"], True), (stage["start"], stage["end"], False))
        if b > a and (search or stage["index"] % 2)
    )
    lines = "".join(
        f'<path class="{kind}" d="{_path(line, end, WIDTH, scale)}"/>'
        for kind, line, scale in (
            ("search", curves["search_loss"], loss),
            ("committed faint" if curves["trend"]["x"] else "committed", curves["committed_loss"], loss),
            ("committed", curves["trend"], loss),
            ("validation", curves["validation"], loss),
            ("search", curves["search_lr"], lr),
            ("committed", curves["committed_lr"], lr),
        )
    )
    marks = "".join(
        f'<path class="change" d="M{WIDTH * min(x / end, 1):.1f} 0V{top + LR_HEIGHT}"/>' for x in curves["changes"]["x"]
    )
    return (
        f'<svg class="overview" viewBox="0 0 {WIDTH} {top + LR_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f"{bands}{lines}{marks}</svg>"
    )


class _Scale:
    """From values to heights: logarithmic where all are positive."""

    def __init__(self, values: Range, top: float, bottom: float) -> None:
        self._values, self._top, self._bottom = values, top, bottom

    def __call__(self, value: float) -> float:
        """The height, from the top of the picture."""
        low, high = self._values.low, self._values.high
        return self._bottom - (self._bottom - self._top) * height(value, low, high, log=low > 0)


def _path(line: Line, end: float, width: float, scale: _Scale) -> str:
    parts: list[str] = []
    pen = "M"
    for x, y in zip(line["x"], line["y"], strict=True):
        if x is None or y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{width * x / end:.1f} {scale(y):.1f}")
        pen = "L"
    return "".join(parts)
