"""The benchmark of runs that change on the way: what changes, who runs through it, and what is reported."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.onthefly import __main__ as command
from benchmarks.onthefly.changes import BATCH_FACTOR
from benchmarks.onthefly.contestant import Trial
from benchmarks.onthefly.contestants import CONTESTANTS
from benchmarks.onthefly.markdown import as_markdown
from benchmarks.onthefly.oracle import ORACLES
from benchmarks.onthefly.phases import thinned, without_course
from benchmarks.onthefly.plan import Plan
from benchmarks.onthefly.report import Report, make_report
from benchmarks.onthefly.runs import Job, run, run_missing
from benchmarks.onthefly.scenarios import QUICK_SCENARIOS, SCENARIOS
from benchmarks.onthefly.shapes import SCHEDULES
from benchmarks.onthefly.tuned_run import TunedRun
from benchmarks.onthefly.tuners import TUNERS, OpenEnded, Reacting
from benchmarks.onthefly.workloads import ENLARGED, UNFROZEN, WORKLOADS, ChangingWorkload
from benchmarks.quality.contestants import CONTESTANTS as STILL
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.scores import scores
from benchmarks.quality.training import Curve
from benchmarks.quality.tuners import Variant

N_STEPS = 200
ROTATED = WORKLOADS["mlp, rotated"]
REACTING = sorted(name for name, tuner in TUNERS.items() if isinstance(tuner, Reacting))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _plan(*names: str, n_seeds: int = 1) -> Plan:
    return Plan(tuple(s for s in QUICK_SCENARIOS if s.name in names), N_STEPS, n_seeds)


def _curve(key: RunKey) -> Curve:
    """A made-up run: at the LR of 0.01 or without one it ends at 1 (an oracle at 0.5), at others twice as high."""
    loss = 0.5 if key.contestant in ORACLES else 1.0
    if key.lr not in (None, 0.01):
        loss *= 2
    return Curve(loss, False, [key.n_steps // 2, key.n_steps], [2 * loss, loss], lrs=[0.1, 0.01])


def _runs(plan: Plan) -> dict[RunKey, Curve]:
    """Made-up runs of all that is planned."""
    runs: dict[RunKey, Curve] = {}
    for _ in range(2):
        planned = plan.after(scores(runs, plan.score_functions))
        runs = {key: _curve(key) for key in planned.keys}
    assert not planned.n_waiting
    return runs


def test_schedules_peak_once_and_never_above_it() -> None:
    for name, schedule in SCHEDULES.items():
        lrs = [schedule.lr(Trial(0.1, 0, 1000), step) for step in range(1000)]
        assert max(lrs) == pytest.approx(0.1, rel=0.02), name
        assert min(lrs) > 0, name


def test_sgdr_restarts_where_the_change_is() -> None:
    trial = Trial(0.1, 0, 1000)
    assert SCHEDULES["sgdr"].lr(trial, 499) < 1e-5
    assert SCHEDULES["sgdr"].lr(trial, 500) == pytest.approx(0.1, rel=1e-3)


def test_the_infinite_schedule_is_constant_through_the_change_and_ends_at_a_tenth() -> None:
    lrs = [SCHEDULES["infinite"].lr(Trial(0.1, 0, 1000), step) for step in range(1000)]
    assert lrs[360:800] == pytest.approx([0.055] * 440)
    assert lrs[-1] == pytest.approx(0.01, rel=0.01)


def test_data_change_for_training_and_validation_alike() -> None:
    session, before = ROTATED.before.build(0), ROTATED.before.build(0)
    ROTATED.go_on(session)
    images, labels = session.validation[0]
    upright, same_labels = before.validation[0]
    assert torch.equal(torch.rot90(images, -1, (-2, -1)), upright)
    assert torch.equal(labels, same_labels)
    before.data_seed = session.data_seed
    assert torch.equal(torch.rot90(next(session.batches())[0], -1, (-2, -1)), next(before.batches())[0])


def test_a_new_alphabet_stays_the_same_one() -> None:
    workload = WORKLOADS["tinybatch, new alphabet"]
    session, before = workload.before.build(0), workload.before.build(0)
    workload.go_on(session)
    pairs = set(
        zip(before.validation[0][0].flatten().tolist(), session.validation[0][0].flatten().tolist(), strict=True)
    )
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})


def test_larger_batches_are_of_the_same_data() -> None:
    session = ENLARGED[0].before.build(0)
    small = len(next(session.batches())[0])
    ENLARGED[0].go_on(session)
    assert len(next(session.batches())[0]) == BATCH_FACTOR * small


@pytest.mark.parametrize(
    "own",
    [UNFROZEN[0], *(pytest.param(own, marks=pytest.mark.slow) for own in UNFROZEN[1:])],
    ids=lambda workload: workload.name,
)
def test_only_the_head_is_trained_before_the_unfreezing_and_everything_after_it(own: ChangingWorkload) -> None:
    session = own.before.build(0)
    start = [parameter.detach().clone() for parameter in session.model.parameters()]

    def n_moved() -> int:
        session.loss(next(session.batches())).backward()  # type: ignore[no-untyped-call]
        session.optimizer.step()
        session.optimizer.zero_grad()
        return sum(not torch.equal(a, b) for a, b in zip(start, session.model.parameters(), strict=True))

    assert n_moved() == 2
    own.go_on(session)
    assert n_moved() == len(start)


def test_a_run_without_a_change_is_that_of_the_quality_benchmark() -> None:
    plain = WORKLOADS["mlp"]
    own = SCHEDULES["linear"].run(plain, Trial(0.01, 0, N_STEPS))
    assert own.final_val_loss == STILL["linear"].run(plain.before, 0.01, N_STEPS, 0).final_val_loss


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains_through_a_change(name: str) -> None:
    curve = SCHEDULES[name].run(ROTATED, Trial(0.01, 0, N_STEPS))
    middle = curve.val_steps.index(N_STEPS // 2)
    assert curve.val_losses[middle + 1] > curve.val_losses[middle], "the new data are unknown"
    assert curve.final_val_loss < curve.val_losses[middle + 1]
    assert curve.val_steps[-1] == N_STEPS


def test_an_oracle_goes_on_from_its_own_state_whatever_ran_before() -> None:
    oracle, low, high = ORACLES["oracle"], Trial(0.001, 0, N_STEPS, 0.01), Trial(0.01, 0, N_STEPS, 0.01)
    once = oracle.run(ROTATED, low).final_val_loss
    assert oracle.run(ROTATED, high).final_val_loss < once
    assert oracle.run(ROTATED, low).final_val_loss == once


def test_an_oracle_warms_up_again_from_what_was_planned_before() -> None:
    trial = Trial(0.02, 0, 1000, 0.1)
    for name, before in (("oracle", 0.0), ("oracle, extended in the middle", 0.05)):
        oracle = ORACLES[name]
        change = round(oracle.change * 1000)
        assert oracle.lr(trial, change - 1) == pytest.approx(before, abs=3e-3)
        assert oracle.lr(trial, change) < 0.001
        assert max(oracle.lr(trial, step) for step in range(change, 1000)) == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("name", REACTING)
def test_every_tuner_makes_as_many_steps_as_all_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_made = 0
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *arguments: object) -> None:
        nonlocal n_made
        n_made += len(self.param_groups[0]["params"]) > 2  # a tuner tries a fresh optimizer on two weights
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    workload = WORKLOADS["mlp"] if "extended" in name or "fresh " in name else ROTATED
    curve = TUNERS[name].run(workload, Trial(None, 0, 400))
    assert n_made == 400
    assert not curve.diverged
    assert len(curve.lrs) == len(curve.val_losses) == len(curve.val_steps)


def test_an_open_ended_run_goes_on_from_before_its_annealings() -> None:
    ends: list[tuple[int, float]] = []

    class Watched(TunedRun):
        def train(self, until: int | None = None) -> None:
            super().train(until)
            ends.append((self.steps, self.session.judge()))

        def undo_annealing(self, n_steps: int) -> None:
            super().undo_annealing(n_steps)
            assert (self.steps, self.session.judge()) == ends[-2]

    options = {"tau": 20, "tau_prime": 2, "candidates": 1, "tau_max": 20}
    open_ended = OpenEnded(Variant("autolrs", options), Watched)
    curve = open_ended.run(WORKLOADS["mlp"], Trial(None, 0, 400))
    assert [steps for steps, _ in ends[1::2]] == [100, 200, 400]
    assert curve.final_val_loss == ends[-1][1] < ends[1][1]
    assert curve.val_steps == sorted(set(curve.val_steps)), "annealings that were undone are no part of its course"
    assert curve.search_steps < 400


def test_stored_courses_keep_their_end_and_the_others_nothing_else() -> None:
    curve = Curve(1.0, False, [1, 2, 3, 4, 5], [5.0, 4.0, 3.0, 2.0, 1.23456789], [1.0] * 5, lrs=[0.1] * 5)
    kept = thinned(curve)
    assert (kept.val_steps, kept.val_losses, kept.lrs) == ([1, 3, 5], [5.0, 3.0, 1.2346], [0.1] * 3)
    assert without_course(curve) == Curve(1.0)


def test_oracles_wait_for_the_runs_before_the_change() -> None:
    plan = _plan("shift-known")
    first = plan.after({})
    assert first.n_waiting == {("shift-known", "oracle"): 1}
    assert {key.n_steps for key in first.keys if key.workload == "mlp"} == {N_STEPS // 2}
    runs = _runs(plan)
    planned = plan.after(scores(runs, plan.score_functions))
    assert {lr for key, lr in planned.first_lrs.items() if key.contestant == "oracle"} == {0.01}


def test_missing_runs_are_made_and_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work_here(
        title: str, jobs: list[Job], work: object, describe: object, n_workers: int
    ) -> Iterator[tuple[Job, Curve]]:
        asked.extend(job.key for job in jobs)
        return ((job, made) for job in jobs)

    asked: list[RunKey] = []
    monkeypatch.setattr("benchmarks.onthefly.runs.run_in_workers", work_here)
    plan = _plan("shift-known")
    runs = _runs(plan)
    key = next(key for key in runs if key.contestant == "wsd" and key.lr == 0.01)
    made = runs.pop(key)
    results = ResultFile(tmp_path / "runs.jsonl")
    run_missing(plan, runs, results, 1)
    assert asked == [key]
    assert results.load() == {key: made}
    assert runs[key] == made


@pytest.mark.slow
def test_a_run_in_another_process_is_the_same(tmp_path: Path) -> None:
    plan = _plan("shift-known")
    runs = _runs(plan)
    key = next(key for key in runs if key.contestant == "wsd" and key.lr == 0.01)
    del runs[key]
    results = ResultFile(tmp_path / "runs.jsonl")
    run_missing(plan, runs, results, 1)
    assert results.load() == {key: runs[key]}
    again = run(Job(key, None))
    assert again.final_val_loss == runs[key].final_val_loss


def _report(*names: str, n_seeds: int = 2) -> Report:
    plan = _plan(*names, n_seeds=n_seeds)
    return make_report(plan, _runs(plan))


def test_ratios_are_to_the_best_of_the_references_sweep() -> None:
    (own,) = _report("shift-known").scenarios
    found = {s.name: own.to_reference(s) for s in own.standings}
    assert {name: ratios.mean for name, ratios in found.items() if ratios} == pytest.approx(
        {name: 1.0 if name.startswith("oracle") else 2.0 for name in found}
    )
    assert own.ranked[0].contestant == "oracle"


def test_a_sweep_whose_best_lr_is_at_its_edge_is_named() -> None:
    plan = _plan("shift-known")
    runs = _runs(plan)
    key = next(key for key in runs if key.contestant == "wsd" and key.lr == ROTATED.lrs[-1])
    runs[key] = replace(runs[key], final_val_loss=0.1)
    text = as_markdown(make_report(plan, runs))
    assert "edge of the grid: wsd 1/1." in text


def test_what_is_missing_is_named() -> None:
    plan = _plan("shift-known")
    text = as_markdown(make_report(plan, {}))
    assert "oracle: 1 sweeps wait" in text
    assert "linear 0/4" in text


def test_the_command_reports_on_stored_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(QUICK_SCENARIOS, 1000, 1)
    results = ResultFile(tmp_path / "runs.jsonl")
    runs = _runs(plan)
    diverged = next(key for key in runs if key.contestant == "budget, told")
    runs[diverged] = Curve(math.inf, diverged=True)
    for key, curve in runs.items():
        results.append(key, curve)
    out = ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md"), "--plots", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["onthefly", "--quick", "--cache", str(tmp_path / "runs.jsonl"), *out])
    command.main()
    text = capsys.readouterr().out
    assert text == (tmp_path / "a.md").read_text("utf-8")
    assert "Incomplete" not in text
    assert "∞ (1 diverged)" in text
    figures = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert [own["name"] for own in figures["scenarios"]] == [scenario.name for scenario in SCENARIOS]
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("ratios", "courses"))


def test_all_contestants_are_in_a_scenario() -> None:
    assert {name for scenario in SCENARIOS for name in scenario.contestants} == set(CONTESTANTS)


def test_stored_runs_are_of_the_present_workloads() -> None:
    assert command.STORED.stat().st_size < 1_000_000
    for key in ResultFile(command.STORED).load():
        assert key.version == WORKLOADS[key.workload].version
        assert key.contestant in CONTESTANTS
