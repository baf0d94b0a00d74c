from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest

from benchmarks.quality.__main__ import QUICK, load
from benchmarks.quality.measures import Case, Choice, Progress, Ratios, progress, standings
from benchmarks.quality.plots import save_plots
from benchmarks.quality.report import as_json, as_markdown, make_report
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.training import Curve

LRS = (0.01, 0.1, 1.0)
CASES = tuple(product(("easy", "hard"), (0, 1)))


def _key(contestant: str, workload: str, seed: int, lr: float | None = None) -> RunKey:
    return RunKey(workload, 1, contestant, lr, seed, 100)


def _curve(loss: float, search_steps: int = 0, peak_lr: float | None = None) -> Curve:
    diverged = math.isinf(loss)
    steps = [] if diverged else [50, 100]
    return Curve(loss, diverged, steps, [loss * 2, loss][: len(steps)], search_steps=search_steps, peak_lr=peak_lr)


def _tuner(contestant: str, losses: tuple[float, ...]) -> dict[RunKey, Curve]:
    """The runs of a contestant without an LR, case by case."""
    return {_key(contestant, *case): _curve(loss, 20, 0.3) for case, loss in zip(CASES, losses, strict=True)}


# Best of the grid: 1.0 on easy, 2.0 on hard, at LR 0.1. Median: 4.0 and 8.0. LR 1 diverges.
LINEAR = {
    _key("linear", workload, seed, lr): _curve(loss * (1 if workload == "easy" else 2))
    for workload, seed in CASES
    for lr, loss in zip(LRS, (4.0, 1.0, math.inf), strict=True)
}
# Ratios: 1, 2 on easy, 1, 4 on hard.
BUDGET = _tuner("budget", (1.0, 2.0, 2.0, 8.0))
RUNS = LINEAR | BUDGET
PLANNED = list(RUNS)


def test_the_reference_is_the_best_of_the_linear_grid_of_the_same_case() -> None:
    (best,) = (s for s in standings(PLANNED, RUNS) if s.choice is Choice.BEST)
    assert [outcome.reference for outcome in best.outcomes] == [1.0, 1.0, 2.0, 2.0]
    assert {outcome.lr for outcome in best.outcomes} == {0.1}
    assert best.ratios.mean == pytest.approx(1.0)
    assert best.n_runs == 3


def test_the_median_of_a_grid_counts_diverged_runs_as_the_worst() -> None:
    (median,) = (s for s in standings(PLANNED, RUNS) if s.choice is Choice.MEDIAN)
    assert {outcome.lr for outcome in median.outcomes} == {0.01}
    assert median.ratios.mean == pytest.approx(4.0)
    assert median.n_runs == 1


def test_ratios_are_averaged_geometrically_over_all_cases_and_by_workload_and_seed() -> None:
    (budget,) = (s for s in standings(PLANNED, RUNS) if s.contestant == "budget")
    ratios = budget.ratios
    assert ratios.mean == pytest.approx(8**0.25)
    assert ratios.worst == 4.0
    assert ratios.worst_case == Case("hard", 1)
    assert ratios.of("hard").mean == pytest.approx(2.0)
    assert (ratios.of("hard").best, ratios.of("hard").worst) == (1.0, 4.0)
    assert ratios.seed_range() == pytest.approx((1.0, math.sqrt(8)))


def test_the_range_over_seeds_compares_them_on_the_workloads_that_all_have() -> None:
    ratios = Ratios({Case("easy", 0): 1.0, Case("easy", 1): 2.0, Case("hard", 0): 100.0})
    assert ratios.seed_range() == pytest.approx((1.0, 2.0))
    assert Ratios({Case("easy", 0): 1.0}).seed_range() is None


def test_standings_come_best_first() -> None:
    found = [(s.contestant, s.choice) for s in standings(PLANNED, RUNS)]
    assert found == [("linear", Choice.BEST), ("budget", Choice.ONLY), ("linear", Choice.MEDIAN)]


def test_steps_to_the_reference_end_at_the_first_validation_that_is_no_worse() -> None:
    runs = RUNS | {_key("budget", "easy", 0): Curve(0.9, False, [30, 60, 100], [1.1, 1.0, 0.9])}
    (budget,) = (s for s in standings(PLANNED, runs) if s.contestant == "budget")
    assert [outcome.steps_to_reference for outcome in budget.outcomes] == [60, math.inf, 100, math.inf]
    assert budget.n_reached == 2
    assert budget.steps_to_reference == math.inf  # half of the cases never get there
    assert budget.search_share == pytest.approx(0.15)


def test_a_run_without_validations_reaches_the_reference_at_its_end() -> None:
    runs = RUNS | {_key("budget", "easy", 0): Curve(0.9)}
    (budget,) = (s for s in standings(PLANNED, runs) if s.contestant == "budget")
    assert budget.outcomes[0].steps_to_reference == 100


def test_a_diverged_run_makes_its_mean_infinite_and_is_counted() -> None:
    report = make_report(PLANNED, RUNS | {_key("budget", "easy", 1): _curve(math.inf)})
    budget = report.standing("budget")
    assert budget is not None
    assert budget.ratios.n_diverged == 1
    assert budget.ratios.mean == math.inf
    assert budget.ratios.of("hard").mean == pytest.approx(2.0)
    assert report.standings[-1] is budget
    assert "∞ (1 diverged)" in as_markdown(report)
    (standing,) = (s for s in as_json(report)["standings"] if s["contestant"] == "budget")
    assert standing["ratio"]["mean"] is None
    assert standing["ratio"]["n_diverged"] == 1


def test_an_incomplete_grid_is_left_out_and_named() -> None:
    gone = _key("linear", "hard", 1, 1.0)
    runs = {key: curve for key, curve in RUNS.items() if key != gone}
    report = make_report(PLANNED, runs)
    assert progress(PLANNED, runs) == {"linear": Progress(11, 12), "budget": Progress(4, 4)}
    # Without its reference a case counts for nobody.
    assert [len(standing.outcomes) for standing in report.standings] == [3, 3, 3]
    text = as_markdown(report)
    assert "linear 11/12" in text
    assert "budget 4/4" not in text


def test_runs_that_are_not_planned_do_not_count() -> None:
    outdated = RunKey("easy", 0, "budget", None, 0, 100)
    report = make_report(PLANNED, RUNS | {outdated: _curve(1e-3)})
    assert outdated not in report.runs
    assert report.progress["budget"] == Progress(4, 4)


def test_a_report_without_any_run_says_what_is_missing() -> None:
    report = make_report(PLANNED, {})
    assert report.standings == []
    assert "linear 0/12" in as_markdown(report)


def test_variants_are_compared_with_the_plain_policy_case_by_case() -> None:
    moved = _tuner("budget, range x10", (2.0, 2.0, 2.0, 8.0))
    ablated = _tuner("budget, no decay", (2.0, 4.0, 4.0, 16.0))
    runs = RUNS | moved | ablated
    report = make_report(list(runs), runs)
    figures = as_json(report)
    assert [(row["contestant"], row["base"]) for row in figures["sensitivity"]] == [("budget, range x10", "budget")]
    assert figures["sensitivity"][0]["ratio"]["mean"] == pytest.approx(2**0.25)
    assert [row["contestant"] for row in figures["ablations"]] == ["budget, no decay"]
    assert figures["ablations"][0]["ratio"]["mean"] == pytest.approx(2.0)
    assert all(standing.contestant in ("linear", "budget") for standing in report.headline)


def test_a_comparison_leaves_out_cases_in_which_the_base_diverged() -> None:
    ablated = _tuner("budget, no decay", (2.0, 4.0, 4.0, 16.0))
    runs = RUNS | ablated | {_key("budget", "easy", 0): _curve(math.inf)}
    report = make_report(list(runs), runs)
    variant, base = report.standing("budget, no decay"), report.standing("budget")
    assert variant is not None
    assert base is not None
    ratios = variant.relative_to(base)
    assert ratios is not None
    assert Case("easy", 0) not in ratios.by_case
    assert ratios.mean == pytest.approx(2.0)


def test_the_json_has_every_run_and_no_infinity() -> None:
    figures = json.loads(json.dumps(as_json(make_report(PLANNED, RUNS)), allow_nan=False))
    assert len(figures["runs"]) == len(RUNS)
    assert sum(run["diverged"] for run in figures["runs"]) == 4


def test_tables_are_well_formed() -> None:
    rows = [line for line in as_markdown(make_report(PLANNED, RUNS)).splitlines() if line.startswith("|")]
    assert any(row.startswith("| budget ") and "1.682" in row and "4.000 (hard)" in row for row in rows)
    assert "0.1 (0.1..0.1)" in " ".join(rows)
    assert "0.3 (0.3..0.3)" in " ".join(rows)


def test_plots_are_written_even_of_incomplete_runs(tmp_path: Path) -> None:
    diverged = RUNS | {_key("budget", "easy", 1): _curve(math.inf)}
    for i, runs in enumerate((diverged, {})):
        directory = tmp_path / str(i)
        directory.mkdir()
        save_plots(make_report(PLANNED, runs), directory)
        assert {path.name for path in directory.iterdir()} == {"ratios.png", "losses.png", "lrs.png"}


def test_all_caches_are_read(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    (one, curve), (two, other) = list(BUDGET.items())[:2]
    ResultFile(first).append(one, curve)
    ResultFile(second).append(two, other)
    assert load([first, second, tmp_path / "missing.jsonl"]) == {one: curve, two: other}


def test_the_quick_scale_has_its_reference_and_ours() -> None:
    assert {"linear", "budget"} <= {key.contestant for key in QUICK.planned()}
