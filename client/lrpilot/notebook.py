"""How a schedule and a tuner look in a notebook: an SVG drawing and a line of facts."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrpilot.schedule import Schedule

if TYPE_CHECKING:
    from lrpilot.driver import Driver

WIDTH, HEIGHT, LEFT, GAP = 640, 110, 70, 26
POINTS = 320
"""Of a curve: one for two pixels."""
DECADES = 4.0
"""LRs further below the highest are drawn at the bottom: a decay to zero has no end on a logarithmic axis."""
_LR_COLOUR, _LOSS_COLOUR = "#3b82c4", "#d9822b"


def schedule_html(schedule: Schedule) -> str:
    """LR and loss over the committed steps, with what the search cost."""
    searched = sum(probe.n_steps for probe in schedule.probes)
    facts = {
        "policy": schedule.policy,
        "steps": f"{schedule.n_steps:,} committed, {searched:,} search",
        "job": schedule.job_id[:8],
    }
    return _frame(schedule.name or "Schedule", facts, _drawing(schedule))


def tuner_html(tuner: Driver) -> str:
    """Where a run is, and its schedule so far."""
    schedule = tuner.schedule
    remaining = tuner.remaining_steps
    facts = {
        "phase": tuner.phase,
        "LR": f"{tuner.lr:.3g}",
        "steps": f"{tuner.committed_step:,} committed, {tuner.search_steps:,} search",
        "left": "no end is set" if remaining is None else f"{remaining:,}",
        "job": tuner.job_id[:8],
    }
    return _frame(schedule.name or "Tuner", facts, _drawing(schedule))


def _frame(title: str, facts: dict[str, str], drawing: str) -> str:
    listed = " · ".join(f"{html.escape(name)} <b>{html.escape(value)}</b>" for name, value in facts.items() if value)
    return f'<div style="font-family:sans-serif"><b>{html.escape(title)}</b><br><small>{listed}</small>{drawing}</div>'


def _drawing(schedule: Schedule) -> str:
    n_steps = schedule.n_steps
    if n_steps == 0:
        return "<br><small>Nothing is committed yet.</small>"
    at = sorted({round(i * (n_steps - 1) / (POINTS - 1)) for i in range(POINTS)})
    lrs = _row("LR", at, [schedule.lr(step) for step in at], n_steps, 0, _LR_COLOUR)
    starts, losses = _means(schedule.losses)
    loss = _row("loss", starts, losses, n_steps, HEIGHT + GAP, _LOSS_COLOUR)
    height = 2 * (HEIGHT + GAP)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" style="max-width:100%;display:block" '
        f'fill="currentColor" font-size="11"><title>LR and loss over {n_steps} committed steps</title>{lrs}{loss}'
        f'<text x="{WIDTH}" y="{height - 4}" text-anchor="end">step {n_steps:,}</text></svg>'
    )


def _means(losses: Sequence[float]) -> tuple[list[int], list[float]]:
    """The curve's parts: where each begins, and the mean of its finite losses."""
    size = max(-(-len(losses) // POINTS), 1)
    starts, means = [], []
    for start in range(0, len(losses), size):
        finite = [loss for loss in losses[start : start + size] if math.isfinite(loss)]
        if finite:
            starts.append(start)
            means.append(math.fsum(finite) / len(finite))
    return starts, means


def _row(name: str, steps: Sequence[int], values: Sequence[float], n_steps: int, top: int, colour: str) -> str:
    """A curve with its highest and lowest value; logarithmic where all are positive."""
    if not values:
        return ""
    low, high = min(values), max(values)
    log = low >= 0 < high and (low > 0 or name == "LR")
    if log:
        low = max(low, high / 10**DECADES)
    bottom, width = top + HEIGHT, WIDTH - LEFT - 4

    def height(value: float) -> float:
        if high <= low:
            return top + HEIGHT / 2
        value = max(value, low)
        part = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return bottom - 8 - part * (HEIGHT - 16)

    points = " ".join(
        f"{LEFT + width * step / max(n_steps - 1, 1):.1f},{height(value):.1f}"
        for step, value in zip(steps, values, strict=True)
    )
    return (
        f'<text x="0" y="{top + 12}">{name}</text>'
        f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{bottom - 4}" text-anchor="end">{low:.3g}</text>'
        f'<path d="M{LEFT} {top}V{bottom}H{WIDTH - 4}" fill="none" stroke="currentColor" opacity=".3"/>'
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    )
