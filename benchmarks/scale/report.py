"""What a run costs, as tables, as JSON and as a plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality.tables import NOTHING, count, table
from benchmarks.scale import costs, places
from benchmarks.scale.costs import Costs, Seconds
from benchmarks.scale.course import longest
from benchmarks.scale.database import Stored
from benchmarks.scale.gloo import Measured
from benchmarks.scale.places import Row
from benchmarks.scale.run import HugeRun

LENGTHS = (5_000, 50_000, 500_000)
WEIGHTS = (1e9, 10e9, 70e9, 405e9)
SHARDS = (8, 32, 128, 512)
RANKS = (2, 8, 32, 128, 512, 2048)


@dataclass(frozen=True)
class Report:
    """All that is shown.

    Attributes:
        run: The run that was asked about.
        bounded: Whether the job is given LR bounds.
        validates: Whether it validates.
        lengths: Its costs at several lengths, its own among them.
        places: Where snapshots go, by size of model and shards.
        waits: How long ranks wait, by their number.
        measured: The channel between real processes; empty if it was not measured.
        stored: What jobs leave in a database; empty if it was not measured.
    """

    run: HugeRun
    bounded: bool
    validates: bool
    lengths: Sequence[Costs]
    places: Sequence[Row]
    waits: Mapping[int, costs.Waits]
    measured: Sequence[Measured]
    stored: Sequence[Stored]


def make_report(
    run: HugeRun, *, bounded: bool, validates: bool, measured: Sequence[Measured] = (), stored: Sequence[Stored] = ()
) -> Report:
    """Computes everything for one run."""
    where, own_waits = places.place(run), costs.waits(run)
    lengths = [
        Costs(dataclasses.replace(run, steps=n), longest(n, bounded=bounded, validates=validates), where, own_waits)
        for n in sorted({*LENGTHS, run.steps})
    ]
    sizes = sorted({*RANKS, run.ranks})
    return Report(
        run,
        bounded,
        validates,
        lengths,
        places.table(run, sorted({*WEIGHTS, run.weights}), sorted({*SHARDS, run.shards})),
        {n: costs.waits(dataclasses.replace(run, ranks=n, shards=1)) for n in sizes},
        measured,
        stored,
    )


def as_markdown(report: Report) -> str:
    """All tables."""
    parts = [
        "# Scale",
        _facts(report),
        "## The search by length of the run",
        _lengths_table(report),
        "## Where the snapshot lives",
        _places_table(report),
        "## How long ranks wait for one another",
        _waits_table(report),
    ]
    if report.stored:
        parts += ["## In the database", _stored_table(report)]
    return "\n\n".join(parts) + "\n"


def _facts(report: Report) -> str:
    run, own = report.run, report.lengths[0]
    bounds = "with" if report.bounded else "without"
    lines = [
        f"{size(run.weights)} weights on {count(run.ranks)} ranks, {count(run.shards)} of which share a copy; "
        f"a step takes {seconds(run.step_s)}; policy budget, {bounds} LR bounds.",
        "",
        f"- Snapshot: {gigabytes(run.snapshot_bytes)} a rank, place: {own.place}; taken or put back in "
        f"{seconds(own.copy_s)}.",
        f"- Average of the weights, where the run validates: {gigabytes(run.average_bytes)} a rank.",
        f"- Batches kept to be drawn again: at most {gigabytes(max(c.replay_bytes for c in report.lengths))} a rank.",
        f"- The tuner's part of a checkpoint: {gigabytes(max(c.checkpoint_bytes for c in report.lengths))} a rank.",
        f"- Connections of the tuner's channel: {count(run.ranks - 1)} a rank, {count(run.connections)} in all.",
    ]
    return "\n".join(lines)


def _lengths_table(report: Report) -> str:
    header = ["", *(f"{count(own.course.total_steps)} steps" for own in report.lengths)]
    rows: list[list[str]] = [
        ["probes", *(count(own.course.search.directives) for own in report.lengths)],
        ["steps of the search", *(count(own.course.search.steps) for own in report.lengths)],
        ["... of the run", *(f"{own.course.search.steps / own.course.total_steps:.2%}" for own in report.lengths)],
        *_seconds_rows("search", [own.search for own in report.lengths]),
        ["search, of the run's time", *(f"{own.search_share:.2%}" for own in report.lengths)],
        ["search, GPU hours", *(f"{own.search_gpu_hours:,.1f}" for own in report.lengths)],
        ["run, GPU hours", *(count(own.run_s * report.run.ranks / 3600) for own in report.lengths)],
        ["added to committed steps", *(f"{own.committed_share:.3%}" for own in report.lengths)],
        ["reports", *(count(own.course.whole.reports) for own in report.lengths)],
        ["bytes of reports", *(count(own.course.whole.bytes_up) for own in report.lengths)],
        ["bytes of answers", *(count(own.course.whole.bytes_down) for own in report.lengths)],
    ]
    return table(header, rows)


def _seconds_rows(name: str, parts: Sequence[Seconds]) -> list[list[str]]:
    named = {
        f"{name}, all": [one.total for one in parts],
        "... steps": [one.steps for one in parts],
        "... validations": [one.validations for one in parts],
        "... snapshot and rollbacks": [one.copies for one in parts],
        "... reductions of losses": [one.looks for one in parts],
        "... reports and answers": [one.answers for one in parts],
    }
    return [[label, *map(seconds, values)] for label, values in named.items()]


def _places_table(report: Report) -> str:
    shards = list(dict.fromkeys(row.shards for row in report.places))
    rows = []
    for weights in dict.fromkeys(row.weights for row in report.places):
        own = {row.shards: row for row in report.places if row.weights == weights}
        rows.append([size(weights), *(f"{gigabytes(own[n].snapshot_bytes)}, {own[n].place}" for n in shards)])
    return table(["weights", *(f"{n} shards" for n in shards)], rows)


def _waits_table(report: Report) -> str:
    measured = {one.ranks: one for one in report.measured}
    rows = []
    for n in sorted({*report.waits, *measured}):
        waits, own = report.waits.get(n), measured.get(n)
        rows.append(
            [
                count(n),
                NOTHING if waits is None else seconds(waits.look),
                NOTHING if waits is None else seconds(waits.answer),
                NOTHING if own is None else seconds(own.look_s),
                NOTHING if own is None else seconds(own.hear_s),
            ]
        )
    return table(["ranks", "losses", "report and answer", "losses, measured", "hearing of it, measured"], rows)


def _stored_table(report: Report) -> str:
    rows = [[count(own.total_steps), count(own.rows), count(own.nbytes)] for own in report.stored]
    return table(["steps", "rows", "bytes"], rows)


def size(weights: float) -> str:
    """A number of weights: 10 billion."""
    return f"{weights / 1e9:g} billion" if weights >= 1e9 else f"{weights / 1e6:g} million"


def gigabytes(nbytes: float) -> str:
    """A size, in the unit that suits it."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}"
    return f"{nbytes:.0f} B"


def seconds(value: float) -> str:
    """A time, in the unit that suits it."""
    if value >= 7200:
        return f"{value / 3600:.3g} h"
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value * 1e6:.3g} us"


def as_json(report: Report) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "run": {**dataclasses.asdict(report.run), "step_s": report.run.step_s},
        "bounded": report.bounded,
        "validates": report.validates,
        "lengths": [_costs_json(own) for own in report.lengths],
        "places": [row._asdict() for row in report.places],
        "waits": [{"ranks": n, **own._asdict()} for n, own in report.waits.items()],
        "measured": [own._asdict() for own in report.measured],
        "stored": [own._asdict() for own in report.stored],
    }


def _costs_json(own: Costs) -> dict[str, Any]:
    return {
        "total_steps": own.course.total_steps,
        "search": own.course.search._asdict(),
        "committed": own.course.committed._asdict(),
        "search_s": {**dataclasses.asdict(own.search), "total": own.search.total},
        "committed_s": dataclasses.asdict(own.committed),
        "search_share": own.search_share,
        "committed_share": own.committed_share,
        "search_gpu_hours": own.search_gpu_hours,
        "snapshot_bytes": own.run.snapshot_bytes,
        "place": own.place,
        "copy_s": own.copy_s,
        "replay_bytes": own.replay_bytes,
        "checkpoint_bytes": own.checkpoint_bytes,
    }


def save_plots(report: Report, directory: Path) -> None:
    """Writes scale.png: what a search costs over the length of a run, and how long ranks wait over their number."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_shares(report, left)
    _draw_waits(report, right)
    figure.savefig(directory / "scale.png", dpi=150)


def _draw_shares(report: Report, axes: Axes) -> None:
    steps = [own.course.total_steps for own in report.lengths]
    axes.plot(steps, [own.search_share * 100 for own in report.lengths], "o-", label="search")
    axes.plot(steps, [own.committed_share * 100 for own in report.lengths], "o-", label="added to committed steps")
    axes.set(xlabel="steps of the run", ylabel="% of its time without a tuner", xscale="log", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)


def _draw_waits(report: Report, axes: Axes) -> None:
    ranks = list(report.waits)
    axes.plot(ranks, [own.look * 1e3 for own in report.waits.values()], "o-", label="losses, simulated")
    axes.plot(ranks, [own.answer * 1e3 for own in report.waits.values()], "o-", label="report and answer, simulated")
    if report.measured:
        measured = [(own.ranks, own.look_s * 1e3) for own in report.measured]
        axes.plot(*zip(*measured, strict=True), "x", color="black", label="losses, measured on one machine")
    axes.set(xlabel="ranks", ylabel="ms", xscale="log", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
