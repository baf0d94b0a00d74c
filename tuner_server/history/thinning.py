"""Fewer points of a curve, so that it looks the same: extremes stay."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
AnyFloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]
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


def thinned(steps: IntArray, values: AnyFloatArray, window: Window) -> IntArray:
    """Which points to draw of a curve.

    Of each bucket these are the first and the last one, the lowest and the highest finite one, and the first that is
    no number: a line through them covers the same pixels as one through all, where a bucket is no wider than a pixel,
    and a spike or a NaN of a single step is never lost. Where steps are left out, a bucket is two.

    Args:
        steps: (n,), ascending.
        values: (n,), one at each step, may hold NaN and infinities.
        window: what is looked at; what lies outside of it is left out.

    Returns:
        Ascending indices into `values`.
    """
    begin, end = np.searchsorted(steps, (window.start, window.end)).tolist()
    if begin == end:
        return np.zeros(0, dtype=np.int64)
    steps, values = steps[begin:end], values[begin:end]
    buckets = np.searchsorted(window.edges, steps, side="right")
    starts = np.flatnonzero((np.diff(buckets, prepend=-1) != 0) | (np.diff(steps, prepend=steps[0] - 1) != 1))
    lasts = np.append(starts[1:], len(values)) - 1
    finite = np.isfinite(values)
    found = [
        starts,
        lasts,
        _lowest(np.where(finite, values, np.inf), starts),
        _lowest(np.where(finite, -values, np.inf), starts),
        _firsts(np.flatnonzero(~finite), starts),
    ]
    kept: IntArray = begin + np.unique(np.concatenate(found))
    return kept


def _lowest(values: AnyFloatArray, starts: IntArray) -> IntArray:
    """The first lowest value of each part."""
    lows = np.minimum.reduceat(values, starts)
    lengths = np.diff(starts, append=len(values))
    return _firsts(np.flatnonzero(values == np.repeat(lows, lengths)), starts)


def _firsts(found: IntArray, starts: IntArray) -> IntArray:
    """The first in each part of ascending indices."""
    parts = np.searchsorted(starts, found, side="right")
    firsts: IntArray = found[np.diff(parts, prepend=-1) != 0]
    return firsts
