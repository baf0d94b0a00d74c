from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest

from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.grid import run_rounds
from benchmarks.quality.plan import FULL, LENGTHS, QUICK, SENSITIVITY, Entry
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve
from benchmarks.quality.users_lr import USERS_LR
from tests.support.jobs.quality_runs import GRID, curve, key, plan, sweep, workload

EASY, HARD = workload("easy"), workload("hard")
LONG = plan([EASY, HARD], "linear", "budget", lengths=(4000, 8000))


def _losses(best: float) -> dict[float, float]:
    return {lr: 1.0 + abs(GRID.index(lr) - GRID.index(best)) for lr in GRID}


def _scores(best: float, n_seeds: int = 2, n_steps: int = 4000, of: str = "easy") -> dict[RunKey, float]:
    runs = sweep("linear", of, {seed: _losses(best) for seed in range(n_seeds)}, n_steps)
    return {run: own.final_val_loss for run, own in runs.items()}


def _lrs(keys: Sequence[RunKey], contestant: str, of: str, n_steps: int) -> set[float | None]:
    return {k.lr for k in keys if (k.contestant, k.workload, k.n_steps) == (contestant, of, n_steps)}


def test_short_sweeps_have_the_whole_grid_and_every_seed() -> None:
    keys = plan([EASY, HARD], "linear", "budget", n_seeds=3).after({}).keys
    assert len(set(keys)) == len(keys)
    assert Counter(k.contestant for k in keys) == {"linear": 2 * 3 * len(GRID), "budget": 2 * 3}


def test_long_sweeps_wait_for_those_at_4000_steps() -> None:
    planned = LONG.after({})
    assert _lrs(planned.keys, "linear", "easy", 8000) == set()
    assert [entry[:3] for entry in planned.waiting] == [("linear", "easy", 8000), ("linear", "hard", 8000)]
    assert planned.cases["linear", 8000] == planned.cases["budget", 8000]


def test_long_sweeps_are_pruned_workload_by_workload() -> None:
    planned = LONG.after(_scores(0.032))
    assert _lrs(planned.keys, "linear", "easy", 8000) == {0.01, 0.032, 0.1}
    assert [entry[:3] for entry in planned.waiting] == [("linear", "hard", 8000)]


def test_a_missing_seed_keeps_a_long_sweep_waiting() -> None:
    assert len(LONG.after(_scores(0.032, n_seeds=1)).waiting) == 2


def test_a_long_sweep_is_extended_where_its_best_lr_is_at_the_edge() -> None:
    planned = LONG.after(_scores(0.032) | _scores(0.1, n_steps=8000))
    assert _lrs(planned.keys, "linear", "easy", 8000) == {0.01, 0.032, 0.1, 0.32}


def test_a_users_lrs_are_the_best_one_on_average_and_its_neighbours() -> None:
    own = plan([EASY, HARD], "linear", USERS_LR)
    assert {entry.workload for entry in own.after({}).waiting} == {"easy", "hard"}
    planned = own.after(_scores(0.032, n_steps=1000))
    assert _lrs(planned.keys, USERS_LR, "easy", 1000) == {0.01, 0.032, 0.1}
    assert len([k for k in planned.keys if k.contestant == USERS_LR]) == 3 * 2


def test_a_sweep_near_the_best_lr_grows_where_its_own_best_is_at_the_edge() -> None:
    own = plan([EASY], "linear", near_best=("cosine", "prodigy"))
    assert {entry[:2] for entry in own.after({}).waiting} == {("cosine", "easy")}
    found = _scores(0.032, n_steps=1000)
    assert _lrs(own.after(found).keys, "cosine", "easy", 1000) == {0.01, 0.032, 0.1}
    found |= {key("cosine", "easy", seed, lr): lr for seed in (0, 1) for lr in (0.01, 0.032, 0.1)}
    assert _lrs(own.after(found).keys, "cosine", "easy", 1000) == {0.0032, 0.01, 0.032, 0.1}
    assert _lrs(own.after(found).keys, "prodigy", "easy", 1000) == {None}


def test_sweeps_that_lack_lrs_of_the_grid_are_told() -> None:
    own = plan([EASY], "linear", "budget", "rex", lengths=(1000, 8000), near_best=("cosine",))
    assert own.after({}).pruned == {("linear", 8000), ("cosine", 1000), ("cosine", 8000)}


def test_rounds_end_with_every_planned_run_there() -> None:
    own = plan([EASY, HARD], "linear", "budget", USERS_LR, lengths=(1000, 4000, 8000))
    done: dict[RunKey, Curve] = {}
    rounds = []

    def run(keys: Sequence[RunKey]) -> None:
        assert not done.keys() & set(keys)
        rounds.append(len(keys))
        for k in keys:
            # The longer, the lower the best LR, by so much that three extensions are needed.
            best = {1000: 0.32, 4000: 0.1, 8000: 0.0032}[k.n_steps]
            done[k] = curve(1.0 if k.lr is None else 1.0 + abs(math.log(k.lr / best)))

    run_rounds(own, lambda: dict(done), run)
    planned = own.after({k: own.final_val_loss for k, own in done.items()})
    assert set(planned.keys) == set(done)
    assert planned.waiting == ()
    assert _lrs(planned.keys, "linear", "easy", 8000) == {0.001, 0.0032, 0.01, 0.032, 0.1, 0.32}
    # The short runs; the pruned sweep and the LRs of its length; three extensions; the LRs of the long runs.
    assert len(rounds) == 6


def test_rounds_end_though_every_run_diverges() -> None:
    done: dict[RunKey, Curve] = {}
    own = plan([EASY], "linear", USERS_LR, lengths=(4000, 8000))
    run_rounds(own, lambda: dict(done), lambda keys: done.update((k, curve(math.inf)) for k in keys))
    assert {k.n_steps for k in done} == {4000}


def test_runs_of_another_version_of_a_workload_are_planned_again() -> None:
    outdated = {RunKey(k.workload, 0, *_rest(k)): score for k, score in _scores(0.032).items()}
    assert len(LONG.after(outdated).waiting) == 2


def _rest(k: RunKey) -> tuple[str, float | None, int, int]:
    return k.contestant, k.lr, k.seed, k.n_steps


def test_runs_that_a_policy_refuses_are_not_planned() -> None:
    planned = plan([EASY], "linear", "budget", "autolrs", lengths=(100, 1000)).after({})
    assert {(k.contestant, k.n_steps) for k in planned.keys} == {
        ("linear", 100),
        ("linear", 1000),
        ("budget", 100),
        ("budget", 1000),
        ("autolrs", 1000),
    }
    (refused,) = planned.refused
    assert refused == Entry("autolrs", "easy", 100, refused.reason)
    assert "too few for one stage" in refused.reason
    assert planned.cases["autolrs", 100] == frozenset()


def test_stored_contestants_have_cases_of_their_own() -> None:
    own = plan([EASY], "linear", lengths=(1000, 4000), stored=("cosine",))
    assert {k.n_steps for k in own.after({}).keys if k.contestant == "cosine"} == {4000}
    assert {case.n_steps for case in own.stored_cases(4000)} == {4000}
    assert own.contestants == ["linear"]


def test_the_full_plan_has_every_contestant() -> None:
    planned = {name for part in (*FULL.parts, *FULL.stored) for name in part.contestants}
    assert planned == set(CONTESTANTS)


def test_the_full_plan_has_the_reference_and_ours_at_every_length() -> None:
    blocks = FULL.after({}).cases
    for n_steps in LENGTHS:
        assert blocks["linear", n_steps] == blocks["budget", n_steps]
        assert {case.workload for case in blocks["budget", n_steps]} == set(FULL.workloads)
    assert all((name, n_steps) in blocks for name in SENSITIVITY for n_steps in (1000, 4000))


@pytest.mark.parametrize("n_steps", [500, 1000])
def test_the_quick_plan_has_both_references(n_steps: int) -> None:
    cases = QUICK.after({}).cases
    assert cases["linear", n_steps] == cases["budget", n_steps] == cases["budget, LR x30", n_steps]
    assert {case.seed for case in cases["linear", n_steps]} == {0, 1}
    assert "dying" in QUICK.workloads


def test_a_run_key_of_the_plan_is_that_of_the_grid() -> None:
    assert key("linear", "easy", 1, GRID[0], 4000) in LONG.after({}).keys
