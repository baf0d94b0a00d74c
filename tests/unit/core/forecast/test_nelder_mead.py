"""Our one-dimensional Nelder-Mead against scipy's."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import pytest
from scipy.optimize import minimize

from tuner_server.core.forecast.nelder_mead import minimise_from_zero


@hypothesis.given(
    centre=st.floats(-20, 20), width=st.floats(0.1, 10), ripple=st.floats(0, 2), tolerance=st.sampled_from([1e-3, 1e-5])
)
def test_it_finds_what_scipy_finds(centre: float, width: float, ripple: float, tolerance: float) -> None:
    """Also where ripples make local minima: the path is the same, not only the idea."""

    def function(x: float) -> float:
        return ((x - centre) / width) ** 2 + ripple * math.sin(3 * x)

    found = minimize(
        lambda x: function(float(x[0])),
        x0=[0.0],
        method="Nelder-Mead",
        options={"xatol": tolerance, "fatol": tolerance},
    )
    assert minimise_from_zero(function, tolerance) == pytest.approx(float(found.x[0]), abs=5 * tolerance)
