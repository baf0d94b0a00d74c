"""The LRs that are compared, and their correlations with observations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.observations import textbook_matern
from tuner_server.core.search.gaussian_process import hyperparameters
from tuner_server.core.search.gaussian_process.lattice import lattice

OBSERVED = {
    "inside": [0.31, 0.77],
    "at the bounds and on the lattice": [0.0, 1.0, 0.5, 51 / 255],
    "a hair apart": [0.4, 0.4 + 1e-15],
    "just outside": [-0.2, 1.3],
    "far outside": [-400.0, 900.0],
}


@pytest.mark.parametrize("observed", OBSERVED.values(), ids=list(OBSERVED))
@pytest.mark.parametrize("size", [2, 100, 256])
def test_correlations_are_the_textbook_ones(observed: list[float], size: int) -> None:
    grid = hyperparameters.grid()
    lengthscales = np.array([0, 3, len(grid.lengthscales) - 1])
    compared = lattice(size, grid)
    got = compared.correlations(np.array(observed), lengthscales)
    for one, lengthscale in zip(got, grid.lengthscales[lengthscales], strict=True):
        expected = textbook_matern(np.array(observed), np.linspace(0.0, 1.0, size), float(lengthscale))
        np.testing.assert_allclose(one, expected, rtol=3e-14, atol=1e-200)


@pytest.mark.parametrize("seed", range(20))
def test_near_is_what_is_closer_than_the_separation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 300))
    compared, observed = lattice(size, hyperparameters.grid()), rng.uniform(-0.5, 1.5, size=4)
    separation = float(rng.uniform(0.0, 0.2))
    got = np.zeros((len(observed), size), np.bool_)
    for row, (start, stop) in zip(got, compared.near(observed, separation), strict=True):
        row[start:stop] = True
    np.testing.assert_array_equal(got, np.abs(observed[:, None] - compared.x) < separation)


def test_the_farthest_is_in_the_middle_of_the_widest_gap() -> None:
    compared = lattice(101, hyperparameters.grid())
    assert compared.farthest(np.array([0.1, 0.3, 0.9])) == 60
