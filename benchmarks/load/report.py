"""The figures as Markdown tables and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.load.latencies import PERCENTILES
from benchmarks.load.summary import BUDGET_MS, Row, name
from benchmarks.load.workload import Kind

COLUMNS = (
    ("database", "---"),
    ("jobs", "---:"),
    ("arrival", "---"),
    ("offered/s", "---:"),
    ("done/s", "---:"),
    ("searches", "---:"),
    ("without search, ms", "---:"),
    ("with search, ms", "---:"),
    ("CPU ms", "---:"),
    ("errors", "---:"),
)
MEMORY_COLUMNS = (("database", "---"), ("jobs", "---:"), ("server memory a live job, KiB", "---:"))
OPTUNA_COLUMNS = (
    ("Optuna's sampler", "---"),
    ("studies", "---:"),
    ("done/s", "---:"),
    ("tell and ask, ms", "---:"),
    ("CPU ms, server + clients", "---:"),
    ("p50", "---:"),
    ("p99", "---:"),
    ("CPU", "---:"),
    ("done/s", "---:"),
)


def _ms(of: Row) -> str:
    """The percentiles, p50 / p99 / p99.9; of fewer than 100 values p99 is the largest, of fewer than 1,000 p99.9."""
    if of["count"] == 0:
        return ""
    shown = []
    for percentile in PERCENTILES:
        value = of[name(percentile)]
        text = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
        shown.append(text if of["count"] * (100 - percentile) >= 99.9 else f"({text})")
    return " / ".join(shown)


def _spread(of: Row, digits: str = ".3g") -> str:
    low, high = of["range"]
    return f"{of['median']:{digits}}" if low == high else f"{of['median']:{digits}} ({low:{digits}} to {high:{digits}})"


def _share(latency: Row) -> str:
    """The share of the reports that were answered by a search."""
    searches, plain = latency[Kind.SEARCH]["count"], latency[Kind.PLAIN]["count"]
    return f"{searches / (searches + plain):.0%}" if searches + plain else ""


def _arrival(row: Row) -> str:
    return "burst" if row["step_ms"] is None else f"spread, {row['step_ms']:g} ms a step"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> list[str]:
    titles, alignments = zip(*columns, strict=True)
    return ["", *map(_line, (titles, alignments, *rows))]


def as_markdown(rows: Sequence[Row], contests: Sequence[Row]) -> str:
    """The tables. Percentiles are of all seeds together; other figures are medians over seeds, with their range."""
    growth = {(row["database"], row["jobs"]): _spread(row["rss_per_job_kib"]) for row in rows}
    lines = [
        "Latency: p50 / p99 / p99.9 (in parentheses: the largest of too few values for it).",
        "CPU: the server's a report, + PostgreSQL's.",
        *_table(COLUMNS, [_cells(row) for row in rows]),
        *_table(MEMORY_COLUMNS, [(database, f"{jobs:,}", kib) for (database, jobs), kib in growth.items()]),
    ]
    if contests:
        lines += ["", "The last four columns are ratios to LRPilot's burst on SQLite."]
        lines += _table(OPTUNA_COLUMNS, [_contest(row) for row in contests])
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    latency, cpu = row["latency_ms"], _spread(row["server_cpu_ms"])
    if row["database_cpu_ms"]["median"] > 0:
        cpu += f" + {row['database_cpu_ms']['median']:.3g}"
    is_burst = row["step_ms"] is None
    done = _spread(row["done_per_s"])
    return [
        row["database"],
        f"{row['jobs']:,}",
        _arrival(row),
        "" if is_burst else _spread(row["offered_per_s"]),
        f"{done}, saturated" if row["saturated"] and not is_burst else done,
        _share(latency),
        _ms(latency[Kind.PLAIN]),
        _ms(latency[Kind.SEARCH]),
        cpu,
        str(sum(row["errors"].values())),
    ]


def _contest(row: Row) -> list[str]:
    return [
        row["sampler"],
        f"{row['studies']:,}",
        _spread(row["done_per_s"]),
        _ms(row["latency_ms"]),
        f"{_spread(row['server_cpu_ms'])} + {_spread(row['clients_cpu_ms'])}",
        *(_spread(row["ratios"][key]) if row["ratios"] else "" for key in ("p50", "p99", "cpu", "done_per_s")),
    ]


def plot(rows: Sequence[Row], contests: Sequence[Row], path: Path) -> None:
    """Latency over the number of jobs: a column for each database, a row for each arrival."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    databases = list(dict.fromkeys(row["database"] for row in rows))
    arrivals = list(dict.fromkeys(map(_arrival, rows)))
    size = (4.5 * len(databases), 2.8 * len(arrivals))
    figure, grid = plt.subplots(
        len(arrivals), len(databases), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for axes_row, arrival in zip(grid, arrivals, strict=True):
        for axes, database in zip(axes_row, databases, strict=True):
            shown = [row for row in rows if row["database"] == database and _arrival(row) == arrival]
            _draw(axes, shown)
            if arrival == "burst" and database == "sqlite":
                _draw_contests(axes, contests)
            axes.axhline(BUDGET_MS, color="tab:red", linestyle=":", linewidth=1)
            axes.set(xscale="log", yscale="log", title=f"{database}, {arrival}")
            axes.grid(visible=True, alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("jobs")
    for axes in grid[:, 0]:
        axes.set_ylabel("ms")
    for axes in (grid[0, 0], grid[-1, 0]):
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw(axes: Any, rows: Sequence[Row]) -> None:
    for kind, color in ((Kind.PLAIN, "tab:blue"), (Kind.SEARCH, "tab:orange")):
        known = [row for row in rows if row["latency_ms"][kind]["count"] > 0]
        jobs = [row["jobs"] for row in known]
        label = "with search" if kind is Kind.SEARCH else "without search"
        for percentile, style in ((50.0, "o--"), (99.0, "o-")):
            values = [row["latency_ms"][kind][name(percentile)] for row in known]
            axes.plot(jobs, values, style, color=color, markersize=3, label=f"{label}, {name(percentile)}")


def _draw_contests(axes: Any, contests: Sequence[Row]) -> None:
    for sampler, color in (("TPE", "tab:gray"), ("GP", "black")):
        known = [row for row in contests if row["sampler"] == sampler and row["latency_ms"]["count"] > 0]
        values = [row["latency_ms"]["p50"] for row in known]
        axes.plot([row["studies"] for row in known], values, "x--", color=color, label=f"Optuna, {sampler}, p50")
