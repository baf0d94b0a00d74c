"""Further seeds of the quality benchmark: which runs they take, and what is made of them."""

from __future__ import annotations

import math

import pytest

from benchmarks.quality.fresh_seeds import GROUPS, as_markdown, draw, keys, rows
from benchmarks.quality.plan import N_SEEDS
from benchmarks.quality.results import RunKey
from benchmarks.quality.workloads import WORKLOADS

MLP = WORKLOADS["mlp"]
FRESH = N_SEEDS
N_STEPS = 1000


def linear(lr: float, seed: int) -> RunKey:
    return RunKey(MLP.name, MLP.version, "linear", lr, seed, N_STEPS)


def ours(seed: int, workload: str = "mlp") -> RunKey:
    return RunKey(workload, WORKLOADS[workload].version, "budget", None, seed, N_STEPS)


def lrs_of(scored: dict[RunKey, float]) -> list[float]:
    """The LRs of the further seed's sweep."""
    found = keys(scored, N_STEPS, [FRESH])
    assert ours(FRESH) in found
    return [key.lr for key in found if key.workload == "mlp" and key.lr is not None]


def test_a_sweep_has_the_stored_best_and_its_neighbours_and_goes_on_where_its_own_lies_at_the_edge() -> None:
    grid = MLP.lr_grid
    scored = {linear(lr, seed): 2.0 for lr in grid for seed in range(N_SEEDS)}
    scored |= {linear(grid[2], seed): 1.0 for seed in range(N_SEEDS)}
    assert lrs_of(scored) == list(grid[1:4])
    scored |= {linear(lr, FRESH): 2.0 for lr in grid[1:3]} | {linear(grid[3], FRESH): 1.0}
    assert lrs_of(scored) == list(grid[1:5])


def test_a_ratio_is_to_the_best_of_the_same_seed() -> None:
    scored = {linear(0.01, 0): 1.0, linear(0.1, 0): math.inf, linear(0.01, 1): 5.0, ours(0): 1.2, ours(2): 1.0}
    assert list(rows(scored, [N_STEPS])[0].ratios.by_case.values()) == [pytest.approx(1.2)]


def test_rows_have_the_mean_over_workloads_and_the_error_of_the_seeds() -> None:
    best = {"mlp": {0: 1.1, FRESH: 1.0, FRESH + 1: 1.6}, "gru": {0: 1.0, FRESH: 1.0, FRESH + 1: 1.0}}
    scored = {ours(seed, name): ratio for name, own in best.items() for seed, ratio in own.items()}
    for name, own in best.items():
        key = RunKey(name, WORKLOADS[name].version, "linear", 0.01, 0, N_STEPS)
        scored |= {RunKey(**{**key.__dict__, "seed": seed}): 1.0 for seed in own}
    found = rows(scored, [N_STEPS])
    assert [row.seeds for row in found] == list(GROUPS)
    stored, fresh, every = found
    assert stored.ratios.mean == pytest.approx(math.sqrt(1.1))
    assert stored.ratios.standard_error is None  # with one seed alone
    assert fresh.ruins is not None
    assert (len(fresh.ratios.by_case), len(fresh.ruins.ruined)) == (4, 1)
    assert (fresh.ratios.worst_case.workload, fresh.ratios.worst_case.seed) == ("mlp", FRESH + 1)
    assert fresh.ratios.mean == pytest.approx(1.6**0.25)
    assert fresh.ratios.standard_error == pytest.approx(math.log(1.6) / 4)
    assert len(every.ratios.by_case) == 6
    assert "from 4 on" in as_markdown(found)
    assert len(draw(found).axes) == 1
