from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tuner_server.history.thinning import FloatArray, Window, thinned

curves = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=300).map(
    lambda values: np.array(values, dtype=np.float64)
)


@given(curves, st.integers(0, 1000), st.integers(1, 40))
def test_every_extreme_of_every_bucket_stays(values: FloatArray, start: int, buckets: int) -> None:
    window = Window(start, start + len(values), buckets)
    kept = thinned(start + np.arange(len(values)), values, window)

    assert (np.diff(kept) > 0).all()
    edges = window.edges - start
    for low, high in itertools.pairwise(edges.tolist()):
        inside = values[low:high]
        shown = values[kept[(kept >= low) & (kept < high)]]
        assert shown[0] == inside[0] or np.isnan(inside[0])
        finite = inside[np.isfinite(inside)]
        if len(finite):
            assert shown[np.isfinite(shown)].min() == finite.min()
            assert shown[np.isfinite(shown)].max() == finite.max()
        assert np.isfinite(shown).all() == np.isfinite(inside).all()


def test_a_spike_and_a_nan_among_a_hundred_thousand_steps_are_kept() -> None:
    values = np.linspace(2.0, 1.0, 100_000)
    values[31_415], values[92_653] = 7.0, np.nan
    kept = thinned(np.arange(100_000), values, Window(0, 100_000, 500))
    assert {31_415, 92_653} <= set(kept.tolist())
    assert len(kept) <= 5 * 500


def test_what_is_outside_of_the_window_is_left_out_and_short_curves_are_whole() -> None:
    values = np.arange(100.0)
    assert thinned(np.arange(50, 150), values, Window(60, 70, 500)).tolist() == list(range(10, 20))
    assert thinned(np.arange(50, 150), values, Window(0, 50, 10)).tolist() == []
    assert thinned(np.arange(7), values[:7], Window(0, 7, 500)).tolist() == list(range(7))


def test_both_sides_of_a_gap_are_drawn_to_their_ends() -> None:
    steps = np.concatenate([np.arange(40, 48), np.arange(52, 60)])
    kept = thinned(steps, np.zeros(16), Window(0, 100, 1))
    assert steps[kept].tolist() == [40, 47, 52, 59]
