"""Curves as text: Unicode's braille patterns, two by four dots a character."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from rich.table import Table

WIDTH, HEIGHT = 64, 6
"""Characters of a curve."""
DECADES = 4.0
"""LRs further below the highest are drawn at the bottom."""
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Of a pattern: the left column's from the top down, then the right one's (ISO/TR 11548-1)."""
_BLANK = 0x2800


def curves(losses: Sequence[float], lrs: Sequence[float]) -> Table:
    """Loss and LR over committed steps, each with its highest and lowest value."""
    table = Table.grid(padding=(0, 1))
    for name, values, style in (("loss", losses, "cyan"), ("LR", lrs, "yellow")):
        means = column_means(values, 2 * WIDTH)
        if not means:
            continue
        low, high = min(means), max(means)
        lines = braille(means, HEIGHT)
        labels = [f"{high:.3g}", *[""] * (HEIGHT - 2), f"{low:.3g}"]
        for i, (label, line) in enumerate(zip(labels, lines, strict=True)):
            table.add_row(f"[bold]{name}" if i == 0 else "", label, f"[{style}]{line}")
    return table


def column_means(values: Sequence[float], n_columns: int) -> list[float]:
    """The means of `n_columns` equal parts, or fewer if there are fewer values; what is no number doesn't count."""
    finite = [value for value in values if math.isfinite(value)]
    n = min(n_columns, len(finite))
    edges = [round(i * len(finite) / n) for i in range(n + 1)] if n else []
    return [math.fsum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def braille(values: Sequence[float], height: int) -> list[str]:
    """A dot for each value, on a logarithmic scale if all are positive; `height` lines, from the top down."""
    heights = _heights(values, 4 * height)
    rows = [[_BLANK] * (-(-len(values) // 2)) for _ in range(height)]
    for column, at in enumerate(heights):
        row, dot = divmod(4 * height - 1 - at, 4)
        rows[row][column // 2] |= _DOTS[column % 2][dot]
    return ["".join(map(chr, row)) for row in rows]


def _heights(values: Sequence[float], n_dots: int) -> list[int]:
    """From 0, the lowest, to `n_dots` - 1."""
    low, high = min(values), max(values)
    if low > 0:
        floor = math.log10(high) - DECADES
        values = [max(math.log10(value), floor) for value in values]
        low, high = min(values), max(values)
    if high <= low:
        return [n_dots // 2] * len(values)
    return [round((value - low) / (high - low) * (n_dots - 1)) for value in values]
