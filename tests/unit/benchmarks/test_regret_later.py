"""The regret of peaks in the middle of a run: hand-checked picks on made-up states, and changes to real workloads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.quality.training import set_lr, train_step
from benchmarks.quality.workloads import WORKLOADS, Session
from benchmarks.regret.later import changes, warmups
from benchmarks.regret.later.__main__ import STORED_TABLE
from benchmarks.regret.later.averages import MeanOfWeights
from benchmarks.regret.later.build import build_all, load, plan
from benchmarks.regret.later.peaks import tuned_peak
from benchmarks.regret.later.report import as_json, as_markdown, best_peak, evaluate, gain_of_lower, gap, plot
from benchmarks.regret.later.rules import (
    FAMILIES,
    RULES,
    STEP,
    best_of_three,
    by_share,
    drawn,
    extrapolated,
    original,
    proposed,
    reference,
    regret,
    searched,
    vetoed,
)
from benchmarks.regret.later.states import PROBE_STEPS, Key, Kind, Probe, State, Trials, before, build, grid, rest
from benchmarks.regret.oracle import decay

P = 0.1
LRS = tuple(P * 10 ** (i / 2) for i in range(-2, 3))
"""Two steps of a veto below P, and two above."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _state(kind: Kind = Kind.INPUTS, probes: tuple[float | None, ...] = (1.2, 1.1, 1.0, 1.1, 1.2)) -> State:
    """P is best for the rest, and by every probe unless others are given."""
    trials = tuple(Probe(loss, loss, loss) for loss in probes)
    return State(
        key=Key(kind, "mlp", 1, 0, 1000),
        peak=P,
        running=P / 2,
        val_loss=2.0,
        kept=0.6,
        lrs=LRS,
        ends=(0.8, 0.6, 0.5, 0.6, None),
        probes=dict.fromkeys(PROBE_STEPS, trials),
    )


@pytest.mark.parametrize(
    ("kind", "planned", "done"),
    [
        (Kind.INPUTS, 600, 300),
        (Kind.LATE, 1200, 900),
        (Kind.BATCH, 600, 300),
        (Kind.COOLED, 300, 300),
        (Kind.BRIEF, 1200, 1200),
        (Kind.HOT, 200, 100),
        (Kind.PLATEAU, 600, 300),
    ],
)
def test_a_kind_says_how_much_of_which_plan_is_over(kind: Kind, planned: int, done: int) -> None:
    key = Key(kind, "mlp", 1, 0, 300)
    assert (key.planned, key.done) == (planned, done)


def test_the_line_to_the_new_end_of_a_run_made_twice_as_long_goes_on_from_three_quarters() -> None:
    hot = replace(_state(Kind.HOT), key=Key(Kind.HOT, "mlp", 1, 0, 300))
    x = by_share(hot, 1.0).x
    assert x is not None
    assert math.exp(x) == pytest.approx(0.75 * P)


def test_a_larger_batch_raises_the_reference_and_a_plateau_is_its_own() -> None:
    assert math.exp(reference(_state())) == pytest.approx(P)
    assert math.exp(reference(_state(Kind.BATCH))) == pytest.approx(P * math.sqrt(8))
    assert math.exp(reference(_state(Kind.PLATEAU))) == pytest.approx(P / 2)


def test_regret_is_relative_to_the_best_peak_or_that_of_the_old_schedule() -> None:
    state = _state()
    assert regret(state, math.log(P)) == 0.0
    assert regret(state, math.log(P) - STEP) == pytest.approx(0.2)
    assert regret(state, math.log(P) + 2 * STEP) == pytest.approx(1.0)  # diverged
    assert regret(state, None) == pytest.approx(0.2)
    assert regret(replace(state, kept=None), None) == 1.0  # 2.0, capped
    assert regret(replace(state, kept=None, val_loss=0.75), None) == pytest.approx(0.5)


def test_a_plateaus_old_schedule_is_its_lr() -> None:
    plateau = _state(Kind.PLATEAU)
    assert regret(plateau, None) == regret(plateau, math.log(P / 2))


def test_a_search_follows_its_probes_and_a_prior_holds_it() -> None:
    state = _state(probes=(0.9, 1.0, 1.1, 1.2, None))
    assert searched(state, "decayed", 25).x == pytest.approx(math.log(LRS[0]))
    assert searched(state, "decayed", 25).steps == 125
    held = drawn(state, "decayed", 25, width=10.0).x
    assert held == pytest.approx(math.log(P), abs=0.1)
    assert drawn(state, "decayed", 25, width=0.0) == searched(state, "decayed", 25)


def test_two_lengths_are_extrapolated_over_log_length() -> None:
    lower = tuple(Probe(loss, loss, loss) for loss in (1.0, 1.1, 1.2, 1.3, 1.4))
    state = _state()
    state = replace(state, probes={**state.probes, 10: lower})
    # From two steps below P at 10 steps to P at 100: two steps further at 1,000.
    assert extrapolated(state, "decayed", 10, 100).x == pytest.approx(math.log(P) + 2 * STEP, abs=0.05)


def test_weak_evidence_changes_nothing() -> None:
    state = _state(probes=(1.0, 1.05, 1.2, 1.1, 1.1))  # 14% better a step below
    assert vetoed(state, "decayed").x == reference(state)
    assert best_of_three(state, "decayed", 25, margin=0.2).x == reference(state)
    assert best_of_three(state, "decayed", 25, margin=0.1).x == pytest.approx(reference(state) - STEP)


@pytest.mark.parametrize(
    ("probes", "down", "n_probes"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 0, 2),
        ((0.9, 1.0, 1.3, 1.0, 1.0), 1, 3),
        ((0.5, 1.0, None, None, None), 2, 4),
    ],
)
def test_a_veto_goes_down_while_the_lower_probe_is_clearly_better(
    probes: tuple[float | None, ...], down: int, n_probes: int
) -> None:
    pick = vetoed(_state(probes=probes), "decayed", n=25)
    assert pick.x == pytest.approx(math.log(P) - down * STEP)
    assert pick.steps == 25 * n_probes


def test_a_probe_that_ends_above_the_loss_before_it_refutes_its_peak_whatever_the_lower_one_does() -> None:
    ruined_alike = (0.9, 2.5, 2.5, 2.5, 2.5)  # from 2.0
    assert vetoed(_state(probes=ruined_alike), "decayed").x == pytest.approx(math.log(P) - 2 * STEP)
    nothing_helps = (2.5, 2.5, 2.5, 2.5, 2.5)
    assert vetoed(_state(probes=nothing_helps), "decayed").x == pytest.approx(math.log(P) - 3 * STEP)


def test_a_veto_never_goes_up() -> None:
    assert vetoed(_state(probes=(2.0, 2.0, 2.0, 0.1, 0.1)), "decayed").x == pytest.approx(math.log(P))


def test_the_proposed_rule_probes_only_where_more_than_the_end_has_changed() -> None:
    bad_at_p = (0.5, 1.0, None, None, None)
    for kind in (Kind.COOLED, Kind.BRIEF, Kind.HOT):
        assert proposed(_state(kind, bad_at_p)) == by_share(_state(kind), 1.0)
    assert proposed(_state(Kind.INPUTS, bad_at_p)).x == pytest.approx(math.log(P) - 2 * STEP)
    assert proposed(_state(Kind.INPUTS)).x == original(_state()).x


def test_the_best_peak_lies_between_the_grids_and_at_it_beside_a_divergence() -> None:
    assert best_peak(_state()) == pytest.approx(1.0)
    assert 1.0 < best_peak(replace(_state(), ends=(0.9, 0.7, 0.5, 0.55, 0.7))) < 10**0.25
    assert best_peak(replace(_state(), ends=(0.9, 0.7, 0.5, None, None))) == pytest.approx(1.0)


def test_what_a_veto_sees_and_what_it_should() -> None:
    state = _state(probes=(1.0, 1.0, 1.5, 2.0, 2.0))
    assert gap(state) == pytest.approx(0.5)
    assert gain_of_lower(state) == pytest.approx(-0.2)


def test_the_report_has_every_rule_and_every_kind(tmp_path: Path) -> None:
    states = [
        replace(state, key=replace(state.key, workload=workload))
        for workload in ("mlp", "gru")
        for state in (_state(), _state(Kind.HOT), _state(Kind.PLATEAU))
    ]
    report = evaluate(states)
    markdown = as_markdown(report)
    assert all(f"| {name} |" in markdown for name in (*RULES, *report.held_out_rules))
    assert len(report.held_out_rules) == len(FAMILIES)
    figures = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert len(figures["picks"]) == len(states) * (len(RULES) + len(FAMILIES))
    plot(report, tmp_path / "later.png")
    assert (tmp_path / "later.png").stat().st_size > 0


def test_a_constant_is_chosen_on_the_other_workloads() -> None:
    # Here P is best and its probe bad: a narrow margin is fooled, and the other workload's states have told.
    fooled = _state(probes=(0.9, 1.0, 1.1, 1.2, 1.3))
    other = replace(fooled, key=replace(fooled.key, workload="gru"))
    held_out = [judged for judged in evaluate([fooled, other]).held_out if judged.rule.startswith("P, vetoed (")]
    assert [judged.regret for judged in held_out] == [0.0, 0.0]


def test_the_plan_has_every_state_once() -> None:
    keys = plan(["mlp", "finetune", "gru"])
    assert len(set(keys)) == len(keys)
    assert not any(key.kind is Kind.THAWED and key.workload == "gru" for key in keys)
    assert {key.workload for key in keys if key.rest == 2000} == {"finetune"}


def test_the_stored_table_has_every_state_of_the_plan() -> None:
    stored = load(STORED_TABLE)
    assert set(plan()) <= set(stored)


def test_a_built_state_survives_a_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work_here(
        title: str, keys: list[Key], work: Callable[[Key], State], describe: object, n_workers: int
    ) -> Iterator[tuple[Key, State]]:
        for own in keys:
            built[own] = work(own)
            yield own, built[own]

    built: dict[Key, State] = {}
    monkeypatch.setattr("benchmarks.regret.later.build.run_in_workers", work_here)
    key = Key(Kind.HOT, "mlp", WORKLOADS["mlp"].version, 0, 30)
    path = tmp_path / "states.jsonl"
    build_all([key], path, 1)
    with path.open("a") as out:
        out.write('{"key": {"kind')
    assert list(built) == [key]
    assert load(path) == built


@pytest.mark.parametrize("kind", Kind)
def test_a_trial_is_the_run_that_there_would_be_without_other_trials(kind: Kind) -> None:
    key = Key(kind, "mlp", WORKLOADS["mlp"].version, 0, 24)
    state = build(key, probe_steps=(4,))
    assert len(state.lrs) == len(state.ends) == len(state.probes[4])

    session = WORKLOADS["mlp"].build(0)
    if kind is Kind.THAWED:
        changes.freeze(session)
    plan_before = before(key, state.peak)
    batches = session.batches()
    for step in range(key.done):
        set_lr(session.optimizer, plan_before.lr(step))
        train_step(session, next(batches))
    assert state.running == plan_before.lr(key.done - 1)
    session = changes.with_new_batches(session)
    match kind:
        case Kind.INPUTS | Kind.LATE:
            session = changes.with_other_inputs("mlp", session)
        case Kind.TARGETS:
            session = changes.with_other_targets("mlp", session)
        case Kind.BATCH:
            session = changes.with_larger_batch(session)
        case Kind.THAWED:
            changes.thaw(session)
    assert state.val_loss == session.validate()
    batches = session.batches()
    for profile in rest(key, state.lrs[-2]):
        for step in range(profile.length):
            set_lr(session.optimizer, profile.lr(step))
            train_step(session, next(batches))
    assert state.ends[-2] == session.validate()


def test_a_rest_with_the_usual_warm_up_ends_where_the_table_has_it() -> None:
    state = build(Key(Kind.TARGETS, "mlp", WORKLOADS["mlp"].version, 0, 40), probe_steps=(4,))
    usual, longer = warmups.ends(state, (0.05, 0.2))
    at_peak = min(range(len(state.lrs)), key=lambda i: abs(state.lrs[i] - state.peak))
    assert usual == pytest.approx(state.ends[at_peak], rel=1e-3)
    assert longer != usual
    best = min(end for end in state.ends if end is not None)
    assert warmups.row(state, [best, 2 * best, None]) == ["targets, mlp, seed 0", "+0.0%", "+100.0%", "diverged"]


def test_the_grid_follows_what_the_change_asks_for() -> None:
    middle = {kind: grid(Key(kind, "mlp", 1, 0, 100), P)[3] / P for kind in (Kind.INPUTS, Kind.BATCH, Kind.THAWED)}
    assert middle[Kind.INPUTS] == pytest.approx(1.0)
    assert middle[Kind.BATCH] == pytest.approx(math.sqrt(10))
    assert middle[Kind.THAWED] == pytest.approx(1 / math.sqrt(10))
    assert P / 2 in grid(Key(Kind.PLATEAU, "mlp", 1, 0, 100), P)


def _batch(session: Session) -> tuple[torch.Tensor, ...]:
    return next(session.batches())


@pytest.mark.parametrize("name", ["mlp", "inpainting", "chartransformer", "gru"])
def test_other_inputs_are_of_the_same_form_and_change_training_and_validation(name: str) -> None:
    session = WORKLOADS[name].build(0)
    for changed in (changes.with_other_inputs(name, session), changes.with_other_targets(name, session)):
        was, is_now = _batch(session), _batch(changed)
        assert [part.shape for part in is_now] == [part.shape for part in was]
        assert any(not torch.equal(a, b) for a, b in zip(was, is_now, strict=True))
        assert changed.validate() != session.validate()
        train_step(changed, is_now)


def test_a_turned_image_keeps_its_label_and_a_relabelled_one_its_pixels() -> None:
    session = WORKLOADS["mlp"].build(0)
    images, labels = _batch(session)
    turned, same_labels = _batch(changes.with_other_inputs("mlp", session))
    assert torch.equal(turned, torch.rot90(images, 1, (2, 3)))
    assert torch.equal(same_labels, labels)
    same_images, others = _batch(changes.with_other_targets("mlp", session))
    assert torch.equal(same_images, images)
    assert torch.equal(others, (labels + 1) % 10)


def test_a_negative_hides_the_same_pixels() -> None:
    session = WORKLOADS["inpainting"].build(0)
    visible, clean = _batch(session)
    negative, inverted = _batch(changes.with_other_targets("inpainting", session))
    hidden = visible == 0
    assert torch.equal(negative == 0, hidden)
    assert torch.allclose(negative[~hidden], inverted[~hidden] - 0.5, atol=1e-6)
    assert torch.allclose(inverted, 1.0 - clean)


def test_a_larger_batch_has_eight_times_the_samples() -> None:
    session = WORKLOADS["mlp"].build(0)
    assert len(_batch(changes.with_larger_batch(session))[0]) == 8 * len(_batch(session)[0])


def test_a_frozen_body_stands_still_until_it_is_thawed() -> None:
    session = WORKLOADS["finetune"].build(0)
    body, head = (list(part.parameters()) for part in session.model.children())
    changes.freeze(session)
    was = [value.clone() for value in body + head]
    train_step(session, _batch(session))
    assert all(torch.equal(a, b) for a, b in zip(was[: len(body)], body, strict=True))
    assert not torch.equal(was[-1], head[-1])
    changes.thaw(session)
    train_step(session, _batch(session))
    assert not torch.equal(was[0], body[0])


def test_a_mean_of_weights_is_uniform_and_leaves_the_probe_alone() -> None:
    session = WORKLOADS["mlp"].build(0)
    average, seen, batches = MeanOfWeights(session), [], session.batches()
    for _ in range(3):
        batch = next(batches)
        train_step(session, batch)
        average.add(batch)
        seen.append([value.detach().clone() for value in session.model.parameters()])
    loss = average.validate()
    assert all(torch.equal(a, b) for a, b in zip(seen[-1], session.model.parameters(), strict=True))
    with torch.no_grad():
        for value, *values in zip(session.model.parameters(), *seen, strict=True):
            value.copy_(torch.stack(values).mean(0))
    assert loss == pytest.approx(session.validate(), rel=1e-5)


def test_a_means_batch_normalisation_has_the_statistics_of_its_batches() -> None:
    session = WORKLOADS["convnet"].build(0)
    average, batches = MeanOfWeights(session), session.batches()
    for _ in range(10):
        batch = next(batches)
        train_step(session, batch)
        average.add(batch)
    before_validation = {name: value.clone() for name, value in session.model.state_dict().items()}
    # Statistics of the first weights, which saw nothing, would give a loss far above this.
    assert average.validate() < 2.5
    assert all(torch.equal(value, before_validation[name]) for name, value in session.model.state_dict().items())


def test_a_peak_is_tuned_between_the_lrs_of_the_grid() -> None:
    peak = tuned_peak("mlp", 20)
    lrs = WORKLOADS["mlp"].lr_grid
    assert lrs[0] <= peak <= lrs[-1]
    assert tuned_peak("mlp", 20, frozen=True) != peak


def test_a_probe_that_blows_up_has_no_losses() -> None:
    trials = Trials(WORKLOADS["inpainting"].build(0))
    assert trials.probe(1e6, 40) == Probe(None, None, None)
    assert trials.end((decay(1e6, 40),)) is None
    sound = trials.probe(1e-4, 4)
    assert None not in (sound.decayed, sound.last, sound.mean)
