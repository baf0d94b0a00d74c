from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.grid import plan, run
from benchmarks.quality.lr_finder import find_lr
from benchmarks.quality.lr_rules import PlateauLr
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.second_jobs import CONTESTANTS as SECOND_JOBS
from benchmarks.quality.training import N_VALIDATIONS, Curve
from benchmarks.quality.tuners import TUNERS
from benchmarks.quality.users_lr import USERS_LR
from benchmarks.quality.workloads import WORKLOADS

KEY = RunKey("mlp", WORKLOADS["mlp"].version, "linear", 0.01, 0, 200)
CURVE = Curve(0.5, False, [100, 200], [0.7, 0.5], [0.8, 0.6], 1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", [name for name in CONTESTANTS if name not in {*TUNERS, *SECOND_JOBS, USERS_LR}])
def test_every_contestant_learns_within_its_budget(name: str) -> None:
    lr = 0.01 if CONTESTANTS[name].takes_lr else None
    curve = run(replace(KEY, contestant=name, lr=lr))
    assert not curve.diverged
    assert curve.val_steps[-1] <= KEY.n_steps
    assert len(curve.val_steps) == N_VALIDATIONS
    assert curve.final_val_loss == curve.val_losses[-1]
    late = statistics.median(curve.val_losses[-N_VALIDATIONS // 4 :])  # one validation alone may be a noisy one
    assert late < curve.val_losses[0]


def test_a_diverging_run_stops_early_with_an_infinite_loss() -> None:
    curve = run(RunKey("inpainting", WORKLOADS["inpainting"].version, "constant", 1e6, 0, 200))
    assert curve.diverged
    assert curve.final_val_loss == math.inf
    assert len(curve.val_losses) < N_VALIDATIONS


def test_a_run_is_reproducible() -> None:
    assert run(KEY).val_losses == run(KEY).val_losses


def test_a_tuned_contestant_needs_an_lr_and_an_lr_free_one_refuses_it() -> None:
    with pytest.raises(ValueError, match="needs an LR"):
        run(replace(KEY, lr=None))
    with pytest.raises(ValueError, match="itself"):
        run(replace(KEY, contestant="prodigy"))


def test_the_range_test_must_fit_into_the_budget() -> None:
    with pytest.raises(ValueError, match="range test"):
        run(replace(KEY, contestant="lr_finder", lr=None, n_steps=100))


def test_range_test_finds_an_lr_inside_the_range() -> None:
    low, high = WORKLOADS["mlp"].lr_range
    assert low < find_lr(WORKLOADS["mlp"], seed=0) < high


def test_plateau_cuts_the_lr_when_the_loss_stalls() -> None:
    rule = PlateauLr(1.0, n_steps=100)
    rule.observe(1.0)
    assert rule.lr(50) == pytest.approx(1.0)
    for _ in range(4):
        rule.observe(1.0)
    assert rule.lr(51) == pytest.approx(0.1)


def test_results_survive_a_round_trip(tmp_path: Path) -> None:
    results = ResultFile(tmp_path / "grid.jsonl")
    diverged = replace(CURVE, final_val_loss=math.inf, diverged=True)
    results.append(KEY, CURVE)
    results.append(replace(KEY, lr=None), diverged)
    assert results.load() == {KEY: CURVE, replace(KEY, lr=None): diverged}


def test_a_line_cut_short_by_a_crash_costs_that_run_only(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    results = ResultFile(path)
    results.append(KEY, CURVE)
    results.append(replace(KEY, seed=1), CURVE)
    path.write_bytes(path.read_bytes()[:-20])
    results.append(replace(KEY, seed=2), CURVE)
    assert set(results.load()) == {KEY, replace(KEY, seed=2)}


def test_the_plan_has_each_run_once_and_the_first_contestant_complete_before_the_next() -> None:
    keys = plan(WORKLOADS, ["linear", "prodigy"], n_seeds=2, n_steps=100)
    assert len(keys) == len(set(keys))
    n_linear = 2 * sum(len(workload.lr_grid) for workload in WORKLOADS.values())
    assert {key.contestant for key in keys[:n_linear]} == {"linear"}
    assert [key.lr for key in keys[n_linear:]] == [None] * (2 * len(WORKLOADS))
