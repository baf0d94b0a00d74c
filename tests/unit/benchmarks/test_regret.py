"""The regret benchmark: hand-checked figures on a made-up table, and the oracle's rollback on a real workload."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lrpilot.data.replay import BatchBuffer
from lrpilot.wire.divergence import BAD_LOSSES
from lrpilot.wire.profile import Profile, Shape

from benchmarks.quality.training import set_lr, train_step
from benchmarks.quality.workloads import WORKLOADS, Session
from benchmarks.regret import annealing
from benchmarks.regret.build import plan
from benchmarks.regret.forecasts import DECAY_METHODS, METHODS, Prediction, accuracy, last_value, published
from benchmarks.regret.oracle import ConstantTrial, Rollback, StateKey, StateTable, build, decay, probe_marks
from benchmarks.regret.report import as_json, as_markdown, evaluate, plot
from benchmarks.regret.rules import (
    RULES,
    best_decayed_probe,
    by_forecast,
    in_use,
    length_effect,
    regret,
    summarise,
    surrogate_of_decayed_probes,
)
from benchmarks.regret.storage import TableFile
from benchmarks.regret.views import Goal, Probe, outcomes, probes
from tuner_server.core.forecast import Objective
from tuner_server.core.laws.annealing_grid import POWERS
from tuner_server.core.policies.budget_options import BudgetOptions

TAU, TAU_PRIME = 100, 10
LRS = (0.01, 0.1, 1.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _flat(probe_loss: float, end_loss: float) -> ConstantTrial:
    """A trial whose loss is `probe_loss` throughout the probe, and `end_loss` ever after."""
    losses = (probe_loss,) * TAU_PRIME + (end_loss,) * (TAU - TAU_PRIME)
    return ConstantTrial(losses, (probe_loss,) * len(probe_marks(TAU_PRIME)), end_loss + 0.5)


def _table() -> StateTable:
    """The middle LR looks best in the probe; the lowest one is best after tau steps, the highest when decayed."""
    return StateTable(
        key=StateKey("mlp", 1, 0, 0, TAU, TAU_PRIME),
        lr_in_use=0.1,
        first_loss=2.0,
        val_loss=2.0,
        lrs=LRS,
        constant=(_flat(1.5, 0.5), _flat(1.0, 0.75), _flat(1.25, 4.0)),
        decayed=(0.4, 0.3, 0.2),
        probes=(1.2, 0.9, 1.1),
    )


def test_outcomes_are_the_late_mean_and_the_validations_at_the_end() -> None:
    table = _table()
    assert outcomes(table, Goal.TRAINING).tolist() == [0.5, 0.75, 4.0]
    assert outcomes(table, Goal.VALIDATION).tolist() == [1.0, 1.25, 4.5]
    assert outcomes(table, Goal.DECAYED).tolist() == [0.4, 0.3, 0.2]


def test_a_diverged_trial_ends_at_infinity() -> None:
    diverged = ConstantTrial((1.0,) * 30, (1.0,) * len(probe_marks(TAU_PRIME)), None)
    table = replace(_table(), constant=(diverged, *_table().constant[1:]), decayed=(None, 0.3, 0.2))
    assert all(outcomes(table, goal)[0] == math.inf for goal in Goal)


def test_regret_is_relative_to_the_best_of_the_grid_and_capped() -> None:
    table = _table()
    assert regret(table, Goal.TRAINING, math.log(0.01)) == pytest.approx(0.0)
    assert regret(table, Goal.TRAINING, math.log(0.1)) == pytest.approx(0.5)
    assert regret(table, Goal.TRAINING, math.log(1.0)) == pytest.approx(1.0)  # 8 times the best, capped
    assert regret(table, Goal.DECAYED, math.log(0.1)) == pytest.approx(0.5)


def test_regret_between_two_lrs_lies_between_theirs_and_beyond_the_grid_is_that_of_its_end() -> None:
    table = _table()
    assert 0.25 < regret(table, Goal.VALIDATION, math.log(0.3)) < 1.0
    assert regret(table, Goal.DECAYED, math.log(1e-4)) == regret(table, Goal.DECAYED, math.log(0.01))


def test_regret_needs_a_positive_best_loss() -> None:
    with pytest.raises(ValueError, match="best loss of inf"):
        regret(replace(_table(), decayed=(None, None, None)), Goal.DECAYED, 0.0)


def test_rules_pick_what_they_say() -> None:
    table = _table()
    assert in_use(table) == math.log(0.1)
    assert by_forecast(table, last_value, Objective.TRAINING) == math.log(0.1)
    assert best_decayed_probe(table, corrected=False) == math.log(0.1)
    correction = 0.1 ** BudgetOptions().length_exponent  # a probe of 10 steps, a decay over 100
    assert math.exp(best_decayed_probe(table, corrected=True)) == pytest.approx(0.1 * correction)
    # From 0.1, best of the probes, to 1.0, best of the decays over tau.
    assert length_effect(table) == pytest.approx(math.log(10.0))


def test_the_surrogate_looks_between_the_best_probes_neighbours_and_is_corrected_alike() -> None:
    x = surrogate_of_decayed_probes(_table(), corrected=False)
    assert math.log(0.01) < x < math.log(1.0)
    # The higher neighbour is the better one, so the lowest mean is on its side.
    assert x > math.log(0.1)
    exponent = BudgetOptions().length_exponent
    assert surrogate_of_decayed_probes(_table(), corrected=True) == pytest.approx(x + exponent * math.log(0.1))


def test_a_probe_that_stays_far_above_the_start_is_given_up() -> None:
    wild = replace(_table().constant[1], losses=(1.0, *(9.1,) * BAD_LOSSES, *(0.1,) * (TAU - 1 - BAD_LOSSES)))
    table = replace(_table(), constant=(_table().constant[0], wild, _table().constant[2]))
    assert probes(table, Objective.TRAINING)[1] is None
    assert probes(table, Objective.VALIDATION)[1] is None
    assert by_forecast(table, last_value, Objective.TRAINING) == math.log(1.0)


def test_a_probe_with_a_bad_batch_is_not_given_up() -> None:
    bumpy = replace(_table().constant[1], losses=(1.0, 6.1, *(0.1,) * (TAU - 2)))
    table = replace(_table(), constant=(_table().constant[0], bumpy, _table().constant[2]))
    assert probes(table, Objective.TRAINING)[1] is not None


def test_with_every_probe_given_up_the_lowest_lr_is_picked() -> None:
    nothing = ConstantTrial((2.0,), (), None)
    table = replace(_table(), constant=(nothing,) * 3, probes=(None,) * 3)
    assert by_forecast(table, last_value, Objective.VALIDATION) == math.log(0.01)
    assert surrogate_of_decayed_probes(table, corrected=False) == math.log(0.01)


def test_horizons_point_at_the_truths() -> None:
    training, validation = (probes(_table(), objective)[0] for objective in Objective)
    assert training is not None
    assert validation is not None
    # The truth is the mean over x = 90 ... 99.
    assert (training.horizon, training.truth) == (94.5, 0.5)
    # Ten validations, one a step: validation x follows step x + 1.
    assert (validation.horizon, validation.truth) == (99.0, 1.0)


def test_accuracy_by_hand() -> None:
    pairs = [(Prediction(1.1, 0.1), 1.0), (Prediction(2.0, 0.25), 4.0), (Prediction(3.0, 1.0), 3.0)]
    measured = accuracy(pairs)
    assert measured.n == 3
    assert measured.median_error == pytest.approx(0.1)
    assert measured.p90_error == pytest.approx(0.1 + 0.8 * 0.4)
    assert measured.coverage == pytest.approx(2 / 3)
    assert measured.rms_z == pytest.approx(math.sqrt((1 + 64 + 0) / 3))
    assert measured.median_abs_z == pytest.approx(1.0)


def test_the_published_forecast_is_unbounded_and_has_no_calibration() -> None:
    straight = torch.linspace(2.0, 1.0, 20, dtype=torch.float64).numpy()
    probe = Probe(straight, 200.0, Objective.VALIDATION, 1.0)
    assert published(probe).loss < 0.0 <= METHODS["exponential (ours)"](probe).loss
    measured = accuracy([(published(probe), probe.truth)])
    assert measured.coverage is measured.rms_z is measured.median_abs_z is None


def test_areas_by_hand() -> None:
    assert annealing.areas(Profile.constant(0.5, 4)) == (2.0, 0.0)
    # LRs 3, 2, 1; momenta 1 and 1.999.
    assert annealing.areas(Profile(Shape.LINEAR, 3.0, 0.0, 3)) == pytest.approx((6.0, 2.999))


def test_the_annealing_law_is_recovered_from_losses_that_follow_it() -> None:
    level, a, alpha, gain = 0.5, 0.2, float(POWERS[20]), 0.01

    def law(areas: tuple[float, float]) -> float:
        return level + a * math.pow(areas[0], -alpha) - gain * areas[1]

    seen = tuple(law((lr_step, 0.0)) for lr_step in (0.1 * m for m in probe_marks(TAU_PRIME)))
    trial = replace(_table().constant[1], probe_validations=seen)
    table = replace(
        _table(),
        lrs=(0.1,),
        constant=(trial,),
        probes=(law(annealing.areas(decay(0.1, TAU_PRIME))),),
        decayed=(1.0,),
    )
    assert annealing.decay_ends(table) == [pytest.approx(law(annealing.areas(decay(0.1, TAU))))]
    assert annealing.decay_ends(replace(table, probes=(None,))) == [None]


def test_summary_by_hand() -> None:
    summary = summarise([("b", 1.0), ("a", 0.0), ("b", 0.5), ("a", 0.1)])
    assert summary.mean == pytest.approx(0.4)
    # The workloads' means are 0.05 and 0.75.
    assert summary.se == pytest.approx(0.35)
    assert summary.median == pytest.approx(0.3)
    assert (summary.failures, summary.n) == (1, 4)
    assert summarise([("a", 0.2)]).se is None


def test_tables_survive_a_round_trip_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "oracle.jsonl"
    file, table = TableFile(path), replace(_table(), decayed=(0.4, 0.3, None))
    assert file.load() == {}
    file.append(table)
    with path.open("a") as out:
        out.write('{"key": {"workl')
    other = replace(table, key=replace(table.key, seed=1))
    file.append(other)
    assert file.load() == {table.key: table, other.key: other}


def test_the_report_has_every_rule_and_forecaster(tmp_path: Path) -> None:
    other = replace(_table(), key=replace(_table().key, workload="gru"))
    report = evaluate([_table(), other])
    markdown = as_markdown(report)
    assert all(f"| {name} |" in markdown for name in (*RULES, *METHODS, *DECAY_METHODS))
    figures = json.loads(json.dumps(as_json(report), allow_nan=False))
    [row] = [r for r in figures["regret"] if r["rule"] == "LR in use" and r["goal"] == "training"]
    assert (row["mean"], row["n"]) == (pytest.approx(0.5), 2)
    picks = [p for p in figures["picks"] if p["rule"] == "LR in use" and p["goal"] == "training"]
    assert [(p["workload"], p["lr"]) for p in picks] == [("mlp", pytest.approx(0.1)), ("gru", pytest.approx(0.1))]
    plot(report, tmp_path / "regret.png")
    assert (tmp_path / "regret.png").stat().st_size > 0


def test_the_plan_has_every_workload_seed_and_step_once() -> None:
    keys = plan(["mlp", "gru"], steps=(0, 7), n_seeds=3)
    assert len(set(keys)) == len(keys) == 12


def _state(session: Session) -> list[torch.Tensor]:
    optimizer = session.optimizer.state_dict()["state"]
    of_optimizer = [torch.as_tensor(v) for slot in optimizer.values() for v in slot.values() if v is not None]
    return [value.clone() for value in (*session.model.state_dict().values(), *of_optimizer)]


@pytest.mark.parametrize(("name", "step"), [("mlp", 3), ("convnet", 3), ("gru", 0)])
def test_the_state_is_back_bit_for_bit_between_lrs(name: str, step: int) -> None:
    session = WORKLOADS[name].build(0)
    batches = BatchBuffer(session.batches())
    for _ in range(step):
        train_step(session, batches.draw())
    before = _state(session)
    rollback = Rollback(session, batches)
    for lr in (1e-3, 1e6):
        rollback.run(decay(lr, 5), (5,))
        rollback.restore()
        after = _state(session)
        assert len(after) == len(before)
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_trial_is_the_run_that_there_would_be_without_other_trials() -> None:
    key = StateKey("mlp", WORKLOADS["mlp"].version, 0, step=3, tau=12, tau_prime=4)
    table = build(key)
    assert table.lrs == WORKLOADS["mlp"].lr_grid

    session = WORKLOADS["mlp"].build(0)
    batches = session.batches()
    first = [train_step(session, next(batches)) for _ in range(key.step)]
    assert table.first_loss == first[0]
    assert table.val_loss == session.validate()
    set_lr(session.optimizer, table.lrs[-2])
    losses = [train_step(session, next(batches)) for _ in range(key.tau)]
    trial = table.constant[-2]
    assert list(trial.losses) == losses
    assert trial.final == session.validate()
    assert len(trial.probe_validations) == 4
    # From the same weights on the same batch, every LR has the same loss before its first update.
    assert {t.losses[0] for t in table.constant} == {losses[0]}


def test_a_trial_that_diverges_has_no_end() -> None:
    session = WORKLOADS["inpainting"].build(0)
    rollback = Rollback(session, BatchBuffer(session.batches()))
    losses, validations = rollback.run(Profile.constant(1e6, 40), (40,))
    assert len(losses) < 40
    assert validations == []
    assert rollback.end_of(Profile.constant(1e6, 40)) is None
    assert rollback.end_of(Profile.constant(1e-4, 4)) is not None
