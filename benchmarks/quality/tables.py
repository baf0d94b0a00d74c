"""Markdown tables and the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.quality.ratios import Ratios
from benchmarks.quality.ruins import Ruins

NOTHING = "-"
"""A cell of what was not measured, or not yet."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well as plain text; all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "∞"


def count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def mean(ratios: Ratios | None) -> str:
    """The mean with its standard error; a star where it is more than two of them away from 1."""
    if ratios is None:
        return NOTHING
    if ratios.n_diverged:
        return f"∞ ({ratios.n_diverged} diverged)"
    error = ratios.standard_error
    star = "*" if ratios.differs else ""
    return number(ratios.mean) + ("" if error is None else f" ±{error:.2%}{star}")


def worst(ratios: Ratios | None) -> str:
    """The worst ratio with its workload and seed."""
    if ratios is None:
        return NOTHING
    return f"{number(ratios.worst)} ({ratios.worst_case.workload}, {ratios.worst_case.seed})"


def ruined(ruins: Ruins | None) -> str:
    """How many runs are ruined, of how many."""
    return NOTHING if ruins is None else f"{len(ruins.ruined)}/{len(ruins.ratios)}"
