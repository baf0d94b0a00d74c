"""Fewer points of a curve, so that it looks the same: extremes stay."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """What is looked at: steps [start, end), in `buckets` parts of equal width."""

    start: int
    end: int
    buckets: int

    @functools.cached_property
    def edges(self) -> IntArray:
        """[b + 1] the steps at which the parts begin, and the end; parts narrower than a step are left out."""
        return np.unique(np.linspace(self.start, self.end, self.buckets + 1).round().astype(np.int64))


def thinned(start: int, values: FloatArray, window: Window) -> IntArray:
    """Which points to draw of a curve with a value a step.

    Of each bucket these are the first and the last one, the lowest and the highest finite one, and the first that is
    no number: a line through them covers the same pixels as one through all, where a bucket is no wider than a pixel,
    and a spike or a NaN of a single step is never lost.

    Args:
        start: the step of the first value.
        values: (n,), may hold NaN and infinities.
        window: what is looked at; what lies outside of it is left out.

    Returns:
        Ascending indices into `values`.
    """
    # Clipped, the edges outside of the curve fall together.
    edges = np.unique(np.clip(window.edges - start, 0, len(values))).tolist()
    found: set[int] = set()
    for low, high in itertools.pairwise(edges):
        found.update(low + i for i in _extremes(values[low:high]))
    return np.array(sorted(found), dtype=np.int64)


def _extremes(values: FloatArray) -> list[int]:
    last = len(values) - 1
    if last < 2:
        return list(range(last + 1))
    finite = np.isfinite(values)
    if finite.all():
        return [0, last, int(values.argmin()), int(values.argmax())]
    lowest = int(np.where(finite, values, np.inf).argmin())
    highest = int(np.where(finite, values, -np.inf).argmax())
    return [0, last, lowest, highest, int(finite.argmin())]
