"""Figures of several panels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 4


def panels(titles: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for every title."""
    n_rows, n_columns = math.ceil(len(titles) / COLUMNS), min(len(titles), COLUMNS)
    figure = Figure(figsize=(3.4 * n_columns, 2.8 * n_rows + 0.5), layout="constrained")
    all_axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for unused in all_axes[len(titles) :]:
        unused.remove()
    for title, axes in zip(titles, all_axes, strict=False):
        axes.set_title(title)
    return figure, dict(zip(titles, all_axes, strict=False))


def legend(figure: Figure, all_axes: Iterable[Axes]) -> None:
    """One legend for all panels."""
    handles = {
        label: handle for axes in all_axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(list(handles.values()), list(handles), frameon=False, loc="outside lower center", ncols=COLUMNS)
