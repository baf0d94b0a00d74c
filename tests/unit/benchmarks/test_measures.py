from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from benchmarks.quality.cases import Case
from benchmarks.quality.measures import Choice, Outcome, Progress, Standing, progress, standings
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve
from tests.support.jobs.quality_runs import curve, key, sweep

# Seeds 0 and 1 are best at 0.01, seed 2 at 0.1. LR 1 diverges.
LINEAR = sweep(
    "linear",
    "easy",
    {
        0: {0.01: 1.0, 0.1: 2.0, 1.0: math.inf},
        1: {0.01: 1.0, 0.1: 3.0, 1.0: math.inf},
        2: {0.01: 6.0, 0.1: 2.0, 1.0: math.inf},
    },
)


def _standings(runs: Mapping[RunKey, Curve], planned: Mapping[RunKey, Curve] | None = None) -> list[Standing]:
    return standings(planned or runs, runs, {k: own.final_val_loss for k, own in runs.items()})


def _of(choice: Choice, runs: Mapping[RunKey, Curve], planned: Mapping[RunKey, Curve] | None = None) -> Standing:
    (found,) = (standing for standing in _standings(runs, planned) if standing.choice is choice)
    return found


def _scores(standing: Standing) -> dict[int, float]:
    return {case.seed: score for case, score in standing.scores.items()}


def test_the_best_of_a_sweep_is_chosen_case_by_case() -> None:
    best = _of(Choice.BEST, LINEAR)
    assert _scores(best) == {0: 1.0, 1: 1.0, 2: 2.0}
    assert [outcome.lr for outcome in best.outcomes] == [0.01, 0.01, 0.1]
    assert best.n_runs == 3
    assert best.name == "linear, best of grid"


def test_the_median_of_a_sweep_counts_diverged_runs_as_the_worst() -> None:
    assert _scores(_of(Choice.MEDIAN, LINEAR)) == {0: 2.0, 1: 3.0, 2: 6.0}


def test_a_pick_rests_on_the_other_seeds_alone() -> None:
    picked = _of(Choice.PICKED, LINEAR)
    # Seeds 1 and 2 have a mean log score of log 6 / 2 at both LRs: the lower one. Seeds 0 and 2 prefer 0.1.
    assert {o.case.seed: o.lr for o in picked.outcomes} == {0: 0.01, 1: 0.1, 2: 0.01}
    assert _scores(picked) == {0: 1.0, 1: 3.0, 2: 6.0}
    assert picked.n_runs == 1


def test_what_a_seed_ends_at_does_not_move_its_own_pick() -> None:
    runs = dict(LINEAR)
    runs[key("linear", "easy", 2, 0.1)] = curve(1e-9)
    assert {o.case.seed: o.lr for o in _of(Choice.PICKED, runs).outcomes}[2] == 0.01


def test_picks_of_one_workload_or_length_know_nothing_of_another() -> None:
    other = sweep("linear", "hard", {0: {0.01: 9.0, 0.1: 1.0}, 1: {0.01: 9.0, 0.1: 1.0}})
    longer = sweep("linear", "easy", {0: {0.01: 9.0, 0.1: 1.0}, 1: {0.01: 9.0, 0.1: 1.0}}, n_steps=2000)
    found = [s for s in _standings(LINEAR | other | longer) if s.choice is Choice.PICKED]
    lrs = {(s.n_steps, o.case.workload, o.case.seed): o.lr for s in found for o in s.outcomes}
    assert lrs[1000, "easy", 0] == 0.01
    assert lrs[1000, "hard", 0] == 0.1
    assert lrs[2000, "easy", 0] == 0.1


def test_one_seed_has_no_pick() -> None:
    runs = sweep("linear", "easy", {0: {0.01: 1.0, 0.1: 2.0}})
    assert {s.choice for s in _standings(runs)} == {Choice.BEST, Choice.MEDIAN}


def test_a_pruned_sweep_has_no_median() -> None:
    runs = sweep("linear", "easy", {0: {0.01: 1.0}, 1: {0.01: 2.0}}, n_steps=8000)
    found = standings(runs, runs, {k: own.final_val_loss for k, own in runs.items()}, {("linear", 8000)})
    assert {s.choice for s in found} == {Choice.BEST, Choice.PICKED}


def test_an_incomplete_sweep_is_left_out_and_no_pick_rests_on_it() -> None:
    runs = {k: own for k, own in LINEAR.items() if k != key("linear", "easy", 2, 1.0)}
    assert _scores(_of(Choice.BEST, runs, LINEAR)) == {0: 1.0, 1: 1.0}
    assert {o.case.seed: o.lr for o in _of(Choice.PICKED, runs, LINEAR).outcomes} == {0: 0.01, 1: 0.01}


def test_a_contestant_without_an_lr_stands_for_itself() -> None:
    runs = {key("budget", "easy", seed): curve(float(seed + 1), 100 * seed, 0.3) for seed in range(3)}
    (budget,) = _standings(runs)
    assert (budget.choice, budget.name, budget.n_runs) == (Choice.ONLY, "budget", 1)
    assert [outcome.lr for outcome in budget.outcomes] == [0.3] * 3
    assert budget.search_share == pytest.approx(0.1)


def test_a_standing_can_be_confined_to_some_cases() -> None:
    best = _of(Choice.BEST, LINEAR)
    own = best.within({Case("easy", 2, 1000), Case("easy", 2, 4000)})
    assert own is not None
    assert _scores(own) == {2: 2.0}
    assert best.within(set()) is None


def test_steps_to_a_loss_end_at_the_first_validation_that_is_no_worse() -> None:
    run = Curve(0.9, False, [300, 600, 1000], [1.1, 1.0, 0.9])
    outcome = Outcome(key("budget", "easy", 0), run, 0.9, 1)
    assert outcome.steps_to(1.0) == 600
    assert outcome.steps_to(0.8) == math.inf


def test_a_run_without_validations_reaches_a_loss_at_its_end() -> None:
    assert Outcome(key("budget", "easy", 0), Curve(0.9), 0.9, 1).steps_to(1.0) == 1000


def test_progress_is_counted_by_contestant_and_length() -> None:
    planned = [*LINEAR, key("budget", "easy", 0), key("budget", "easy", 0, n_steps=500)]
    done = [*list(LINEAR)[:4], key("budget", "easy", 0)]
    assert progress(planned, done) == {
        ("linear", 1000): Progress(4, 9),
        ("budget", 1000): Progress(1, 1),
        ("budget", 500): Progress(0, 1),
    }
