from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws.lr_path import LrPath


@pytest.mark.parametrize("momentum", [0.9, 0.999])
def test_the_areas_are_those_of_the_definition(vectors: dict[str, Any], momentum: float) -> None:
    known = vectors["annealing_law"]["areas"]
    path = LrPath(np.array(known["lrs"], dtype=np.float64))
    np.testing.assert_allclose(path.area(), known[f"lambda_{momentum}"]["S1"], rtol=1e-12)
    np.testing.assert_allclose(path.annealing_area(momentum), known[f"lambda_{momentum}"]["S2"], rtol=1e-9)


def test_a_single_fall_has_a_closed_form(vectors: dict[str, Any]) -> None:
    path = LrPath(np.repeat([1.0, 0.4], [100, 900]))
    found = path.annealing_area(0.99)
    assert found[-1] == pytest.approx(0.6 * (1 - 0.99**900) / 0.01, rel=1e-12)
    assert found[-1] == pytest.approx(vectors["annealing_law"]["areas"]["single_drop"]["S2_end"], rel=1e-9)


def test_rises_subtract_unless_only_falls_count() -> None:
    path = LrPath(np.array([1.0, 1.0, 3.0, 3.0, 2.0]))
    np.testing.assert_allclose(path.annealing_area(0.0), [0.0, 0.0, -2.0, -2.0, -1.0])
    np.testing.assert_allclose(path.annealing_area(0.0, falls_only=True), [0.0, 0.0, 0.0, 0.0, 1.0])


def test_a_warm_up_anneals_nothing_and_counts_at_its_peak_or_as_it_was() -> None:
    lrs = np.array([0.0, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(LrPath(lrs, warmup=2).area(), [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(LrPath(lrs, warmup=2, warmup_walks=True).area(), [0.0, 0.5, 1.5, 2.5])
    assert not LrPath(lrs, warmup=2).annealing_area(0.9).any()
    assert LrPath(lrs).annealing_area(0.9)[-1] < 0


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_with_a_stride_the_areas_are_those_of_the_line_through_the_samples(momentum: float) -> None:
    samples = np.array([1.0, 1.0, 0.7, 0.9, 0.0])
    sparse = LrPath(samples, stride=50, warmup=50)
    dense = LrPath(np.interp(np.arange(201), sparse.steps, samples), warmup=50)
    np.testing.assert_allclose(sparse.area(), dense.area()[::50], rtol=1e-12)
    np.testing.assert_allclose(sparse.annealing_area(momentum), dense.annealing_area(momentum)[::50], rtol=1e-10)


@pytest.mark.parametrize("lrs", [[], [np.nan], [-1.0], [np.inf]])
def test_a_path_has_lrs_that_are_numbers(lrs: list[float]) -> None:
    with pytest.raises(ValueError, match="lrs: "):
        LrPath(np.array(lrs))
    with pytest.raises(ValueError, match="stride 0"):
        LrPath(np.ones(2), stride=0)
