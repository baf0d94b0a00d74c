"""How a schedule and a tuner look in a notebook: an SVG drawing and a line of facts."""

from __future__ import annotations

import html
from typing import Protocol

from lrpilot.schedule.curves import (
    COMMITTED,
    SEARCH,
    Band,
    Curve,
    Curves,
    Scale,
    bands,
    curves,
    known,
    pieces,
    run_step,
)
from lrpilot.wire.schedule_data import Replan, ScheduleData
from lrpilot.wire.text.job_names import called
from lrpilot.wire.text.plain_text import plain


class ShownRun(Protocol):
    """A run under the tuner, as a notebook shows it."""

    @property
    def schedule(self) -> ScheduleData:
        """The schedule so far."""

    @property
    def job_id(self) -> str:
        """The server's name of the job; empty as long as no server has it."""

    @property
    def phase(self) -> str:
        """What the present steps are for: warm_up, range_test, probe, train or stop."""

    @property
    def lr(self) -> float:
        """The first group's LR, of the next step."""

    @property
    def committed_step(self) -> int:
        """Steps that are in the model, those of an open probe left out."""

    @property
    def search_steps(self) -> int:
        """Steps that were, or will be, rolled back."""

    @property
    def remaining_steps(self) -> int | None:
        """Steps that may still be run; None: there is no end."""


WIDTH, HEIGHT, LEFT, GAP = 640, 110, 70, 8
PLOT = WIDTH - LEFT - 4
AXIS = 18
"""The height under the drawing, where the steps are written."""
COLUMNS = 320
"""The number of columns of the curves: one for two pixels."""
_STAGE = "#808080"
"""The colour of every other stage: grey on white and on black."""


def schedule_html(schedule: ScheduleData) -> str:
    """LR and loss over all steps that were run, with what the search cost."""
    searched = sum(probe.n_steps for probe in schedule.probes)
    facts = {
        "policy": schedule.policy,
        "steps": f"{schedule.n_steps:,} committed, {searched:,} search",
        "search": _search(schedule),
        "plan": _plan(schedule),
        "weights": _weights(schedule),
        "job": schedule.job_id[:8],
    }
    return _frame(called(schedule.name, schedule.job_id) or "Schedule", facts, _drawing(schedule))


def tuner_html(run: ShownRun) -> str:
    """Where a run is, and its schedule so far."""
    schedule = run.schedule
    remaining = run.remaining_steps
    facts = {
        "phase": run.phase,
        "LR": f"{run.lr:.3g}",
        "steps": f"{run.committed_step:,} committed, {run.search_steps:,} rolled back",
        "search": _search(schedule),
        "plan": _plan(schedule),
        "weights": _weights(schedule),
        "left": "no end is set" if remaining is None else f"{remaining:,}",
        "job": run.job_id[:8],
    }
    return _frame(called(schedule.name, schedule.job_id) or "Tuner", facts, _drawing(schedule))


def _search(schedule: ScheduleData) -> str:
    """Why there is none, or why it ended; empty where there is one like any other."""
    if schedule.unrepeatable:
        return f"ended, a rollback failed: {schedule.unrepeatable}"
    return "none" if schedule.unsearched else ""


def _plan(schedule: ScheduleData) -> str:
    """The last change of the plan, and how many there were; empty: it is what it was at the start."""
    if not schedule.replans:
        return ""
    last, n_changes = schedule.replans[-1], len(schedule.replans)
    reason = f" ({last.reason})" if last.reason else ""
    before = f", the last of {n_changes} changes" if n_changes > 1 else ""
    return f"{last.kind.value.replace('_', ' ')} after {last.step:,} committed steps{reason}{before}"


def _weights(schedule: ScheduleData) -> str:
    """Which ones the run ended with; empty: there was no average of them."""
    return "" if schedule.ending is None else schedule.ending.words


def _frame(title: str, facts: dict[str, str], drawing: str) -> str:
    listed = " · ".join(f"{html.escape(name)} <b>{_escaped(value)}</b>" for name, value in facts.items() if value)
    return f'<div style="font-family:sans-serif"><b>{_escaped(title)}</b><br><small>{listed}</small>{drawing}</div>'


def _escaped(text: str) -> str:
    """A text as HTML shows it: in one line that turns nothing round."""
    return html.escape(plain(text))


def _drawing(schedule: ScheduleData) -> str:
    found = pieces(schedule)
    if not found:
        return "<br><small>Nothing has been run yet.</small>"
    drawn = curves(found, COLUMNS)
    bottom = 2 * HEIGHT + GAP
    rows = _row("LR", drawn.committed_lr, drawn.search_lr, 0) + _row(
        "loss", drawn.committed_loss, drawn.search_loss, HEIGHT + GAP
    )
    marked = "".join(_band(band, drawn.n_steps, bottom) for band in bands(found))
    marked += "".join(
        _replanned(replan, run_step(found, replan.step), drawn.n_steps, bottom) for replan in schedule.replans
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + AXIS}" width="{WIDTH}" role="img" style="max-width:100%;display:block" '
        f'fill="currentColor" font-size="11"><title>LR and loss over the {drawn.n_steps} steps that were run</title>'
        f"{marked}{rows}{_axis(drawn, bottom + AXIS - 5)}</svg>"
    )


def _band(band: Band, n_steps: int, height: int) -> str:
    """A search in orange, every other stage in grey."""
    if band.kept and band.stage % 2:
        return ""
    colour, opacity = (_STAGE, 0.12) if band.kept else (SEARCH, 0.2)
    what = f"stage {band.stage}" if band.kept else f"search for stage {band.stage}"
    x, width = LEFT + PLOT * band.start / n_steps, PLOT * (band.end - band.start) / n_steps
    return (
        f'<rect x="{x:.1f}" y="0" width="{width:.1f}" height="{height}" fill="{colour}" opacity="{opacity}">'
        f"<title>{what}: {band.end - band.start:,} steps</title></rect>"
    )


def _replanned(replan: Replan, step: int, n_steps: int, height: int) -> str:
    """A line where the plan has changed, which says how."""
    x = LEFT + PLOT * step / n_steps
    what = f"{replan.kind.value.replace('_', ' ')}{f': {replan.reason}' if replan.reason else ''}"
    return (
        f'<path d="M{x:.1f} 0V{height}" stroke="currentColor" stroke-dasharray="2 4" opacity=".6">'
        f"<title>{_escaped(what)}</title></path>"
    )


def _axis(drawn: Curves, y: int) -> str:
    """Steps, and what the colours say."""
    ends = "".join(
        f'<text x="{LEFT + PLOT * part:.0f}" y="{y}" text-anchor="{anchor}">{text}</text>'
        for part, anchor, text in (
            (0, "start", "0"),
            (0.5, "middle", f"{drawn.n_steps // 2:,}"),
            (1, "end", f"{drawn.n_steps:,} steps"),
        )
    )
    return (
        f'{ends}<text x="{LEFT + PLOT * 0.1:.0f}" y="{y}" fill="{COMMITTED}">committed</text>'
        f'<text x="{LEFT + PLOT * 0.24:.0f}" y="{y}" fill="{SEARCH}">search</text>'
    )


def _row(name: str, committed: Curve, search: Curve, top: int) -> str:
    """Both curves, with the highest and the lowest value that is drawn."""
    scale = Scale.over(committed, search, of_lrs=name == "LR")
    if scale is None:
        return ""
    bottom = top + HEIGHT
    below = "≤ " if scale.lowest < scale.low else ""
    lines = "".join(
        _lines(values, scale, bottom, colour) for values, colour in ((search, SEARCH), (committed, COMMITTED))
    )
    return (
        f'<text x="0" y="{top + 12}">{name}</text>'
        f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{scale.high:.3g}</text>'
        f'<text x="{LEFT - 6}" y="{bottom - 4}" text-anchor="end">{below}{scale.low:.3g}</text>'
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + PLOT}" fill="none" stroke="currentColor" opacity=".3"/>{lines}'
    )


def _lines(values: Curve, scale: Scale, bottom: int, colour: str) -> str:
    """A line for each unbroken run of columns; one of a single column is as wide as the column."""
    width = PLOT / len(values)
    heights = [None if value is None else scale.part(value) for value in values]
    lines = []
    for run in known(enumerate(heights)):
        points = [(LEFT + width * (column + 0.5), bottom - 8 - part * (HEIGHT - 16)) for column, part in run]
        if len(points) == 1:
            x, y = points[0]
            points = [(x - width / 2, y), (x + width / 2, y)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return "".join(lines)
