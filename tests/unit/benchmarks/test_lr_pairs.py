from __future__ import annotations

import math

import pytest

from benchmarks.quality.cases import Case
from benchmarks.quality.lr_pairs import lr_pairs
from benchmarks.quality.results import RunKey
from benchmarks.quality.users_lr import USERS_LR
from tests.support.jobs.quality_runs import key

LRS = (0.0032, 0.01, 0.032)
OURS = {
    key(USERS_LR, "easy", seed, lr): score
    for seed, own in enumerate(((2.0, 3.0, 8.0), (4.0, 6.0, 5.0)))
    for lr, score in zip(LRS, own, strict=True)
}
LINEAR = {
    key("linear", "easy", seed, lr): score
    for seed, own in enumerate(((1.0, 3.0, 4.0), (2.0, 3.0, math.inf)))
    for lr, score in zip(LRS, own, strict=True)
}
BEST = {"easy": 0.01}


def _case(seed: int) -> Case:
    return Case("easy", seed, 1000)


def test_runs_are_paired_with_linear_of_the_same_lr_and_seed() -> None:
    pairs = lr_pairs(OURS, OURS | LINEAR, BEST, 1000)
    assert pairs is not None
    assert [pairs.ratios.get(run) for run in OURS] == [2.0, 1.0, 2.0, 2.0, 2.0, None]
    assert pairs.n_without == 1
    assert pairs.positions == [-1, 0, 1]
    below, with_it, above = (pairs.at(position) for position in pairs.positions)
    assert below is not None
    assert below.by_case == {_case(0): 2.0, _case(1): 2.0}
    assert with_it is not None
    assert with_it.by_case == {_case(0): 1.0, _case(1): 2.0}
    assert above is not None
    assert above.by_case == {_case(0): 2.0}


def test_the_mean_over_lrs_is_taken_seed_by_seed() -> None:
    pairs = lr_pairs(OURS, OURS | LINEAR, BEST, 1000)
    assert pairs is not None
    assert pairs.over_lrs.by_case == pytest.approx({_case(0): 4 ** (1 / 3), _case(1): 2.0})
    logs = (math.log(4) / 3, math.log(2))
    # Of two values: half their distance.
    assert pairs.over_lrs.standard_error == pytest.approx(abs(logs[0] - logs[1]) / 2)


@pytest.mark.parametrize("missing", [next(iter(OURS)), next(iter(LINEAR))])
def test_a_case_of_which_a_run_is_missing_is_left_out(missing: RunKey) -> None:
    scores = {run: score for run, score in (OURS | LINEAR).items() if run != missing}
    pairs = lr_pairs(OURS, scores, BEST, 1000)
    assert pairs is not None
    assert {run.seed for run in pairs.ratios} == {1}


def test_a_divergence_of_ours_is_the_worst() -> None:
    first = next(iter(OURS))
    pairs = lr_pairs(OURS, OURS | LINEAR | {first: math.inf}, BEST, 1000)
    assert pairs is not None
    assert pairs.worst == first
    assert pairs.over_lrs.mean == math.inf


def test_other_lengths_and_contestants_are_none_of_it() -> None:
    assert lr_pairs(OURS, OURS | LINEAR, BEST, 4000) is None
    assert lr_pairs(LINEAR, OURS | LINEAR, BEST, 1000) is None
