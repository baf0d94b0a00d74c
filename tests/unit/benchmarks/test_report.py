from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest

from benchmarks.quality.__main__ import load
from benchmarks.quality.cases import Case
from benchmarks.quality.figures import as_json
from benchmarks.quality.initial_losses import Start
from benchmarks.quality.lr_sensitivity import OURS_WRONG, lr_sensitivities
from benchmarks.quality.markdown import as_markdown
from benchmarks.quality.measures import Choice, Progress
from benchmarks.quality.plots import save_plots
from benchmarks.quality.report import ALL_OURS, Report, make_report
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.training import Curve
from benchmarks.quality.users_lr import USERS_LR
from tests.support.jobs.quality_runs import curve, key, plan, sweep, workload

LRS = (0.01, 0.1, 1.0)
CASES = tuple(product(("easy", "hard"), (0, 1)))
WORKLOADS = [workload("easy", LRS), workload("hard", LRS)]

# Best of the grid: 1.0 on easy, 2.0 on hard, at LR 0.1. LR 1 diverges.
LINEAR = {
    run: own
    for name, best in (("easy", 1.0), ("hard", 2.0))
    for run, own in sweep("linear", name, {seed: {0.01: 4 * best, 0.1: best, 1.0: math.inf} for seed in (0, 1)}).items()
}


def _tuner(contestant: str, losses: tuple[float, ...]) -> dict[RunKey, Curve]:
    """The runs of a contestant without an LR, case by case."""
    return {key(contestant, *case): curve(loss, 200, 0.3) for case, loss in zip(CASES, losses, strict=True)}


# What is learnt at the best LR of the grid is 5 on easy and 10 on hard.
START = {Start(name, 1, seed): loss for name, loss in (("easy", 6.0), ("hard", 12.0)) for seed in (0, 1)}

# Ratios: 1, 1.1 on easy, 1, 4 on hard.
BUDGET = _tuner("budget", (1.0, 1.1, 2.0, 8.0))
RUNS = LINEAR | BUDGET
ENDS_AT_ZERO = "budget, ending zero"
"""As ours, with the ending that other ranges, other LRs and ablations have."""


def _report(runs: dict[RunKey, Curve], *contestants: str, stored: tuple[str, ...] = ()) -> Report:
    return make_report(plan(WORKLOADS, "linear", "budget", *contestants, stored=stored), runs, START)


def _rows(report: Report, start: str) -> list[str]:
    return [line for line in as_markdown(report).splitlines() if line.startswith(f"| {start} ")]


def test_the_references_are_those_of_the_linear_sweep_of_the_same_case() -> None:
    report = _report(RUNS)
    assert report.hindsight == {Case(w, s, 1000): 1.0 if w == "easy" else 2.0 for w, s in CASES}
    assert report.picked == report.hindsight


def test_both_references_and_their_errors_are_in_the_headline() -> None:
    runs = dict(RUNS)
    # Of seed 0 on easy LR 0.01 is better by far: seed 1 is given that, and ends at 4.
    runs[key("linear", "easy", 0, 0.01)] = curve(0.1)
    (row, *_) = _rows(_report(runs), "budget")
    cells = [cell.strip() for cell in row.split("|")]
    # To hindsight: 10, 1.1 and 1, 4. Picked gives 1 and 4 on easy: 1, 0.275 and 1, 4.
    logs = [math.log(r) for r in (10, 1.1, 1, 4)]
    error = math.hypot((logs[0] - logs[1]) / 2, (logs[2] - logs[3]) / 2) / 2
    assert cells[3] == f"{(10 * 1.1 * 4) ** 0.25:.3f} ±{error:.2%}"
    assert cells[4].startswith(f"{(0.275 * 4) ** 0.25:.3f} ±")
    assert cells[5:9] == ["10.000 (easy, 0)", "2/4", "20.0%", "1"]


def test_standings_come_best_first_at_each_length() -> None:
    found = [(s.contestant, s.choice) for s in _report(RUNS).headline(1000)]
    assert found == [
        ("linear", Choice.BEST),
        ("linear", Choice.PICKED),
        ("budget", Choice.ONLY),
        ("linear", Choice.MEDIAN),
    ]


def test_scores_are_compared_where_losses_are_negative() -> None:
    workloads = [workload("easy", LRS, math.exp)]
    runs = sweep("linear", "easy", {seed: {0.01: 1.0, 0.1: -2.0, 1.0: math.inf} for seed in (0, 1)})
    runs |= {key("budget", "easy", seed): curve(-2.0 + 0.1 * seed) for seed in (0, 1)}
    report = make_report(plan(workloads, "linear", "budget"), runs, {})
    ratios = report.ours_over(report.standings[0])
    assert ratios is not None
    assert ratios.by_case == pytest.approx({Case("easy", 0, 1000): 1.0, Case("easy", 1, 1000): math.exp(0.1)})


def test_a_diverged_run_makes_its_mean_infinite_and_is_counted() -> None:
    report = _report(RUNS | {key("budget", "easy", 1): curve(math.inf)})
    assert report.standings[-1].contestant == "budget"
    assert "∞ (1 diverged)" in _rows(report, "budget")[0]
    (standing,) = (s for s in as_json(report)["standings"] if s["contestant"] == "budget")
    assert standing["to_hindsight"]["mean"] is None
    assert standing["to_hindsight"]["n_diverged"] == 1
    assert standing["to_hindsight"]["by_workload"]["hard"]["mean"] == pytest.approx(2.0)


def test_an_incomplete_sweep_is_left_out_and_named_with_its_length() -> None:
    runs = {run: own for run, own in RUNS.items() if run != key("linear", "hard", 1, 1.0)}
    report = _report(runs)
    assert report.progress == {("linear", 1000): Progress(11, 12), ("budget", 1000): Progress(4, 4)}
    # Without its reference a case counts for nobody.
    assert Case("hard", 1, 1000) not in report.hindsight
    text = as_markdown(report)
    assert "1,000 steps: linear 11/12" in text
    assert "budget 4/4" not in text


def test_what_waits_for_other_runs_is_named() -> None:
    report = make_report(plan(WORKLOADS, "linear", "budget", USERS_LR), BUDGET, START)
    assert f"{USERS_LR} on easy, hard (follows from runs of linear)" in as_markdown(report)


def test_runs_that_are_not_planned_do_not_count() -> None:
    outdated = RunKey("easy", 0, "budget", None, 0, 1000)
    report = _report(RUNS | {outdated: curve(1e-3)})
    assert outdated not in report.runs
    assert report.progress["budget", 1000] == Progress(4, 4)


def test_a_report_without_any_run_says_what_is_missing() -> None:
    report = _report({}, USERS_LR, "budget, range x10", stored=("cosine", "budget, no decay"))
    assert report.standings == []
    text = as_markdown(report)
    assert "linear 0/12" in text
    assert "No complete case yet." in text
    json.dumps(as_json(report), allow_nan=False)


def test_the_sensitivity_is_that_to_the_policy_with_the_same_ending_case_by_case() -> None:
    moved = _tuner("budget, range x10", (2.0, 1.1, 2.0, 8.0)) | _tuner(ENDS_AT_ZERO, (1.0, 1.1, 2.0, 8.0))
    report = _report(RUNS | moved, ENDS_AT_ZERO, "budget, range x10")
    (row,) = as_json(report)["sensitivity"]
    assert (row["contestant"], row["n_steps"]) == ("budget, range x10", 1000)
    assert row["ratio"]["mean"] == pytest.approx(2**0.25)
    assert any("2.000 (easy, 0)" in line for line in _rows(report, "budget, range x10"))


def test_ours_is_compared_with_every_other_contestant() -> None:
    report = _report(RUNS | _tuner("prodigy", (2.0, 2.2, 4.0, 16.0)), "prodigy")
    (row,) = (row for row in as_json(report)["ours_over"] if row["contestant"] == "prodigy")
    assert row["ratio"]["mean"] == pytest.approx(0.5)
    assert row["ratio"]["standard_error"] == pytest.approx(0.0)
    assert any("0.500 ±0.00%*" in line for line in _rows(report, "prodigy"))


def test_ablations_are_compared_with_the_plain_policy_in_a_table_of_their_own() -> None:
    ablated = _tuner("budget, no decay", (2.0, 2.2, 4.0, 16.0)) | _tuner(ENDS_AT_ZERO, (1.0, 1.1, 2.0, 8.0))
    report = _report(RUNS | ablated, ENDS_AT_ZERO, stored=("budget, no decay",))
    (row,) = as_json(report)["ablations"]
    assert (row["contestant"], row["base"]) == ("budget, no decay", ENDS_AT_ZERO)
    assert row["ratio"]["mean"] == pytest.approx(2.0)
    assert all(standing.contestant != "budget, no decay" for standing in report.headline(1000))
    assert all(standing.contestant in ("linear", "budget") for standing in report.stored)


def test_stored_contestants_stand_beside_the_others_over_the_cases_that_all_have() -> None:
    own = plan(WORKLOADS, "linear", "budget", stored=("dadaptation",))
    narrow = type(own.stored[0])(("dadaptation",), (1000,), 1, (WORKLOADS[0],))
    runs = RUNS | {key("dadaptation", "easy", 0): curve(3.0)}
    report = make_report(type(own)(own.parts, (narrow,), own.main_length), runs, START)
    assert {case for standing in report.stored for case in standing.scores} == {Case("easy", 0, 1000)}
    assert [s.contestant for s in report.stored if s.choice is Choice.ONLY] == ["budget", "dadaptation"]
    # Its reference is reached by our policy at the end, and never by the other.
    steps = {s["contestant"]: s["steps_to_reference"] for s in as_json(report)["stored"] if s["choice"] == "own"}
    assert steps == {"budget": [1000], "dadaptation": [None]}


def test_ruined_runs_are_counted_by_contestant_and_for_all_of_ours() -> None:
    moved = _tuner("budget, range x10", (1.0, 1.6, 2.0, 2.0))
    report = _report(RUNS | moved, "budget, range x10")
    ruined = as_json(report)["ruined"]
    assert (ruined["budget"]["n_runs"], ruined["budget"]["n_ruined"]) == (4, 1)
    assert ruined["linear, median of grid"]["n_ruined"] == 4
    ours = ruined[ALL_OURS]
    assert (ours["n_runs"], ours["n_ruined"]) == (8, 2)
    assert [(c["workload"], c["seed"], c["contestant"], c["ratio"]) for c in ours["cases"]] == [
        ("hard", 1, "budget", 4.0),
        ("easy", 1, "budget, range x10", 1.6),
    ]
    assert ours["worst"] == ours["cases"][0]
    assert "4.000: hard, seed 1, 1,000 steps, budget" in as_markdown(report)


def test_a_users_lr_is_reported_by_workload_and_counts_among_the_ruined() -> None:
    # The best LR is 0.1; LR 1, its neighbour, diverges with linear.
    runs = RUNS | {key(USERS_LR, *case, lr): curve(2.0) for case in CASES for lr in LRS}
    report = _report(runs, USERS_LR)
    (figures,) = as_json(report)["users_lr"]
    assert figures["n_without"] == 4
    by_position = figures["by_half_decades_from_best"]
    assert by_position["0"]["by_workload"]["easy"]["mean"] == pytest.approx(2.0)
    assert by_position["0"]["by_workload"]["hard"]["mean"] == pytest.approx(1.0)
    assert by_position["-2"]["by_workload"]["easy"]["mean"] == pytest.approx(0.5)
    assert as_json(report)["ruined"][USERS_LR]["n_ruined"] == 6
    text = as_markdown(report)
    assert "2.000 (easy, LR 0.1)" in text
    assert "Left out, since `linear` diverged: 4." in text


def test_the_lr_sensitivity_of_a_contestant_is_a_part_of_what_its_best_lr_gained() -> None:
    # On easy 4, 1 and a divergence, from 6: 0, 3/5 and all. On hard twice of all that.
    (row,) = [row for row in _rows(_report(RUNS), "linear ") if "53.3%" in row]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:7] == ["1,000", "4", "53.3% ±0.0%", "53.3%", "53.3%"]


def test_a_policys_lr_sensitivity_is_that_to_the_lr_that_its_users_carried() -> None:
    runs = RUNS | _tuner(ENDS_AT_ZERO, (1.0, 1.0, 2.0, 2.0))
    for name, losses in (("budget, LR /30", (1.0, 2.5, 2.0, 2.0)), ("budget, LR x30", (1.0, 1.0, 2.0, math.inf))):
        runs |= _tuner(name, losses)
    report = _report(runs, ENDS_AT_ZERO, "budget, LR /30", "budget, LR x30")
    (own,) = [own for own in report.lr_sensitivities if own.contestant == OURS_WRONG]
    assert own.by_workload == {"easy": pytest.approx(0.3 / 3 / 2), "hard": pytest.approx(1 / 3 / 2)}
    assert own.mean == pytest.approx((0.05 + 1 / 6) / 2)
    assert own.standard_error == pytest.approx(math.hypot(0.1 / 2, (1 / 3) / 2) / 2)


def test_a_pruned_grid_and_a_case_without_a_loss_at_initialisation_have_no_lr_sensitivity() -> None:
    assert not make_report(plan(WORKLOADS, "linear", "budget"), RUNS, {}).lr_sensitivities
    longer = sweep("linear", "easy", {seed: dict.fromkeys(LRS, 1.0) for seed in (0, 1)}, n_steps=8000)
    keys = [key for key in LINEAR if key.workload == "easy"]
    scores = {key: own.final_val_loss for key, own in (LINEAR | longer).items()}
    found = lr_sensitivities([*keys, *longer], LINEAR | longer, scores, START, {("linear", 8000)})
    assert [(own.contestant, own.n_steps) for own in found] == [("linear", 1000)]


def test_the_json_has_every_run_with_its_score_and_no_infinity() -> None:
    figures = json.loads(json.dumps(as_json(_report(RUNS)), allow_nan=False))
    assert len(figures["runs"]) == len(RUNS)
    assert sum(run["diverged"] for run in figures["runs"]) == 4
    assert sum(run["score"] is None for run in figures["runs"]) == 4
    assert [curve["contestant"] for curve in figures["curves"]] == ["linear", "linear", "budget", "budget"]


def test_plots_are_written_even_of_incomplete_runs(tmp_path: Path) -> None:
    diverged = RUNS | {key("budget", "easy", 1): curve(math.inf)}
    for i, runs in enumerate((diverged, BUDGET, {})):
        directory = tmp_path / str(i)
        directory.mkdir()
        save_plots(_report(dict(runs)), directory)
        names = {"ratios.png", "losses.png", "lrs.png", "sensitivities.png"}
        names |= {"lengths.png", "workloads.png", "comparison.png"}
        assert {path.name for path in directory.iterdir()} == names


def test_all_caches_are_read_and_the_first_that_has_a_run_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    (one, own), (two, other) = list(BUDGET.items())[:2]
    ResultFile(first).append(one, own)
    ResultFile(second).append(one, other)
    ResultFile(second).append(two, other)
    assert load([first, second, tmp_path / "missing.jsonl"]) == {one: own, two: other}
