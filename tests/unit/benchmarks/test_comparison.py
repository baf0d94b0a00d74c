from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from benchmarks.quality.comparison import comparison, rows
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.plan import FULL, SENSITIVITY, Part, Plan
from benchmarks.quality.report import Report, make_report
from benchmarks.quality.results import RunKey
from benchmarks.quality.systems import SYSTEMS
from benchmarks.quality.training import Curve
from benchmarks.quality.tuners import VARIANTS
from benchmarks.quality.users_lr import USERS_LR
from tests.support.jobs.quality_runs import curve, key, sweep, workload

LRS = (0.01, 0.1)
EASY = workload("easy", LRS)
LENGTHS = (1000, 4000)
SEEDS = (0, 1)
PLAN = Plan(
    parts=(Part(("linear", "budget"), LENGTHS, 2, (EASY,)), Part(("dog",), LENGTHS, 2, (EASY, workload("hard", LRS)))),
    stored=(Part(("cosine", "dadaptation", "budget, no decay"), LENGTHS, 2, (EASY,)),),
    main_length=4000,
)


def _runs(contestant: str, lengths: tuple[int, ...], loss: float, search_steps: int = 0) -> dict[RunKey, Curve]:
    return {
        key(contestant, "easy", seed, None, n_steps): curve(loss, search_steps, n_steps=n_steps)
        for seed, n_steps in product(SEEDS, lengths)
    }


def _sweep(contestant: str, low: float, high: float) -> dict[RunKey, Curve]:
    """The runs of a sweep whose seed 1 prefers the higher LR, to end at half the loss."""
    losses = {0: {0.01: low, 0.1: high}, 1: {0.01: low, 0.1: low / 2}}
    return {k: own for n in LENGTHS for k, own in sweep(contestant, "easy", losses, n).items()}


@pytest.fixture
def report() -> Report:
    runs = _sweep("linear", 2.0, 4.0) | _sweep("cosine", 1.0, 5.0)
    runs |= _runs("budget", LENGTHS, 2.0, 400) | _runs("budget, no decay", (4000,), 1.0)
    runs |= _runs("dadaptation", (1000,), 8.0) | _runs("dog", LENGTHS, 3.0)
    return make_report(PLAN, runs, {})


def _cells(report: Report, name: str) -> list[str]:
    (_, _, lines, _, _) = comparison(report)
    (row,) = (line for line in lines.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_systems_come_best_first_and_those_without_the_main_length_last(report: Report) -> None:
    assert [row.name for row in rows(report)] == [
        "cosine, best of grid",
        "linear, best of grid",
        "budget",
        "cosine, picked on other seeds",
        "linear, picked on other seeds",
        "dog",
        "dadaptation",
    ]


def test_a_row_says_how_it_ends_at_each_length_beside_ours_and_what_it_costs(report: Report) -> None:
    # The best of linear is 2 and 1. Of ours that is 1 and 2, of D-Adaptation 4 and 8.
    assert _cells(report, "dadaptation") == [
        "dadaptation",
        "2/0",
        "5.657 ±34.66%*",
        "-",
        "8.000 (easy, 1)",
        "2/2",
        "0.250 ±0.00%*",
        "-",
        "0%",
        "none",
        "yes",
        "1 or 2",
    ]
    ours = _cells(report, "budget")
    assert ours[2].startswith("1.414 ±")
    assert ours[5:9] == ["2/4", "1.000 ±0.00%", "1.000 ±0.00%", "25%"]


def test_every_system_stands_on_the_same_cases(report: Report) -> None:
    assert {case.workload for row in rows(report) for own in row.standings.values() for case in own.scores} == {"easy"}


def test_a_plan_without_runs_of_their_own_has_no_comparison(report: Report) -> None:
    assert comparison(replace(report, plan=replace(PLAN, stored=()))) == []


def test_every_contestant_of_the_plan_is_a_system_or_one_of_ours_with_other_options() -> None:
    names = {system.contestant for system in SYSTEMS}
    assert names <= set(CONTESTANTS)
    ours = {name for name, variant in VARIANTS.items() if name != variant.policy} | {USERS_LR, *SENSITIVITY, "constant"}
    planned = {name for part in (*FULL.parts, *FULL.stored) for name in part.contestants}
    assert planned - ours <= names
