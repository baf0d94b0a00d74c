from __future__ import annotations

import math

import pytest

from benchmarks.quality.cases import Case
from benchmarks.quality.ratios import Ratios


def _ratios(by_workload: dict[str, list[float]]) -> Ratios:
    return Ratios({Case(w, seed, 1000): ratio for w, own in by_workload.items() for seed, ratio in enumerate(own)})


def test_the_mean_is_that_over_workloads_of_the_geometric_mean_over_seeds() -> None:
    ratios = _ratios({"easy": [1.0, 4.0], "hard": [8.0]})
    assert ratios.mean == pytest.approx(math.sqrt(2.0 * 8.0))


def test_the_standard_error_is_stratified_by_workload() -> None:
    # Logs 0 and 2: variance 2, over 2 seeds. Logs 10, 11 and 12: variance 1, over 3 seeds.
    ratios = _ratios({"easy": [1.0, math.exp(2)], "hard": [math.exp(10), math.exp(11), math.exp(12)]})
    assert ratios.standard_error == pytest.approx(math.sqrt(2 / 2 + 1 / 3) / 2)


def test_what_workloads_differ_by_is_no_error() -> None:
    ratios = _ratios({"easy": [1.0, 1.0], "hard": [5.0, 5.0]})
    assert ratios.standard_error == 0.0
    assert ratios.differs


@pytest.mark.parametrize("by_workload", [{"easy": [1.0, 2.0], "hard": [2.0]}, {"easy": [1.0, math.inf]}])
def test_there_is_no_standard_error_with_one_seed_of_a_workload_or_a_divergence(
    by_workload: dict[str, list[float]],
) -> None:
    ratios = _ratios(by_workload)
    assert ratios.standard_error is None
    assert not ratios.differs


def test_a_difference_shows_beyond_two_standard_errors() -> None:
    # The standard error of each is 0.01.
    assert _ratios({"easy": [math.exp(0.025 - 0.01), math.exp(0.025 + 0.01)]}).differs
    assert not _ratios({"easy": [math.exp(0.015 - 0.01), math.exp(0.015 + 0.01)]}).differs
    assert _ratios({"easy": [math.exp(-0.025 - 0.01), math.exp(-0.025 + 0.01)]}).differs


def test_a_divergence_makes_the_mean_infinite_and_is_counted() -> None:
    ratios = _ratios({"easy": [1.0, math.inf], "hard": [2.0, 2.0]})
    assert ratios.mean == math.inf
    assert ratios.n_diverged == 1
    assert ratios.worst_case == Case("easy", 1, 1000)
    hard = ratios.of("hard")
    assert hard is not None
    assert hard.mean == pytest.approx(2.0)
    assert ratios.of("other") is None


def test_cases_are_paired_and_those_in_which_the_base_diverged_left_out() -> None:
    a, b, c, d = (Case("easy", seed, 1000) for seed in range(4))
    ratios = Ratios.between({a: 3.0, b: math.inf, c: 1.0}, {a: 2.0, b: 4.0, c: math.inf, d: 1.0})
    assert ratios == Ratios({a: 1.5, b: math.inf})
    assert Ratios.between({c: 1.0}, {c: math.inf}) is None
