"""Policy open_ended: the plateau, its cooldowns, the looks at it, and how it goes on when the plan changes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.open_ended_jobs import Life, config
from tests.support.jobs.sample_jobs import SlowTraining
from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.core import policies
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import (
    ChangeKind,
    ChangeOrigin,
    Directive,
    Outcome,
    Phase,
    PlanChange,
    Report,
)
from tuner_server.core.policies.open_ended_looks import BRANCHES
from tuner_server.core.policies.open_ended_options import BLIND_PROBE, OpenEndedOptions
from tuner_server.core.search.veto import SPACING
from tuner_server.core.stages.ending import ANNEALING_MEMORY_SHARE, FLOOR
from tuner_server.core.stages.plateau import RISE

FIRST = 200
"""Steps of the first stage in these tests."""
BEST = 0.05


def anneal(n_steps: int) -> PlanChange:
    return PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=n_steps)


UNDO = PlanChange(kind=ChangeKind.UNDO_ANNEALING)
REPLAN = PlanChange(kind=ChangeKind.REPLAN, reason="other images")


def profile_of(directive: Directive) -> Profile:
    assert directive.profile is not None
    return directive.profile


def lr_after(life: Life) -> float:
    """The LR with which the outstanding directive begins."""
    return profile_of(life.directive).lr(0)


def test_it_is_the_default_where_no_end_is_known() -> None:
    assert policies.default_name(config()) == "open_ended"
    assert policies.default_name(config(total_time_s=60.0)) == "open_ended"
    assert policies.default_name(config(total_steps=1000)) == "budget"


@pytest.mark.parametrize("has_validation", [False, True])
def test_a_search_comes_first_and_finds_the_lr(has_validation: bool) -> None:
    life = Life(config(has_validation=has_validation)).until_stage(0)
    probes = life.directives[:-1]
    assert {probe.phase for probe in probes} == {Phase.PROBE}
    assert {profile_of(probe).length for probe in probes} == {BLIND_PROBE}
    decision = life.now.decision
    assert decision is not None
    assert decision.optimum == pytest.approx(BEST, rel=1.5)
    assert decision.correction == pytest.approx(0.53 * (BLIND_PROBE / 500) ** 0.2)
    assert decision.lr == profile_of(life.directive).peak
    assert decision.optimum is not None
    assert decision.lr < decision.optimum


def test_stages_double_and_the_lr_falls_by_a_power_of_the_length() -> None:
    life = Life(config(first_stage=FIRST, look_share=0)).until_stage(4)
    stages = life.committed()
    assert [stage.n_steps for stage in stages] == [FIRST * 2**i for i in range(5)]
    assert [stage.stage for stage in stages] == list(range(5))
    for stage, following in itertools.pairwise(stages):
        profile = profile_of(stage)
        assert profile.shape == Shape.EXPONENTIAL
        assert profile.end_lr == pytest.approx(profile_of(following).start_lr)
        assert profile.end_lr / profile.start_lr == pytest.approx(0.5**0.2, rel=0.1)
    # N(s) = 2 s + FIRST.
    assert profile_of(stages[3]).start_lr / profile_of(stages[0]).start_lr == pytest.approx((FIRST / 3000) ** 0.2)
    assert all(stage.snapshot for stage in stages), "a divergence goes back to the beginning of its stage"


def test_stages_do_not_grow_for_ever() -> None:
    life = Life(config(first_stage=8000, look_share=0)).until_stage(2)
    assert [stage.n_steps for stage in life.committed()] == [8000, 10_000, 10_000]


def test_the_first_stage_warms_up_and_no_other_does() -> None:
    stages = Life(config(first_stage=FIRST, look_share=0)).until_stage(2).committed()
    assert [profile_of(stage).warmup for stage in stages] == [10, 0, 0]
    assert profile_of(stages[0]).lr(0) < 0.2 * profile_of(stages[0]).start_lr


def test_a_plateau_is_annealed_from_where_it_is() -> None:
    life = Life(config(first_stage=FIRST)).until_stage(1)
    life.step()
    life.step(anneal(100))
    state = life.now.state
    profile = profile_of(life.directive)
    assert state.present_lr is not None
    assert profile.lr(0) == pytest.approx(state.present_lr)
    assert (profile.end_lr, life.directive.n_steps) == (0.0, 100)
    assert state.total_steps == state.run_steps + 100
    life.to_the_end()
    assert life.now.state.status is Status.FINISHED


AVERAGES: dict[str, Any] = {"has_validation": True, "has_average": True, "first_stage": FIRST}


def test_an_annealing_ends_at_a_floor_with_an_average_where_that_can_be_validated() -> None:
    life = Life(config(**AVERAGES)).until_stage(1)
    life.step(anneal(100))
    peak = life.now.state.peak_lr
    assert peak is not None
    assert profile_of(life.directive).end_lr == pytest.approx(FLOOR * peak)
    assert life.directive.average is not None
    assert life.directive.average.memory_steps == pytest.approx(ANNEALING_MEMORY_SHARE * 100)
    assert f"to {FLOOR:.3g} of the peak" in life.directive.reason
    life.to_the_end()
    assert life.now.state.ending is not None
    life.step(UNDO)
    assert life.directive.restore
    assert life.directive.average is None


@pytest.mark.parametrize(
    ("fields", "n_steps"),
    [({"ending": "zero"}, 100), ({"has_validation": False}, 100), ({"has_average": False}, 100), ({}, 49)],
)
def test_an_annealing_ends_at_zero_otherwise_and_where_it_is_short(fields: dict[str, Any], n_steps: int) -> None:
    life = Life(config(**{**AVERAGES, **fields})).until_stage(1)
    life.step(anneal(n_steps))
    assert profile_of(life.directive).end_lr == 0.0
    assert life.directive.average is None


@pytest.mark.parametrize("fields", [{"total_steps": 2000}, {"patience": 1}])
def test_a_cooldown_ends_like_an_annealing(fields: dict[str, Any]) -> None:
    last = Life(config(**AVERAGES, **fields), SlowTraining(validates=True)).to_the_end().committed()[-1]
    assert last.average is not None
    assert profile_of(last).end_lr > 0


def test_a_run_that_ends_by_time_ends_at_zero() -> None:
    last = Life(config(**AVERAGES, total_time_s=100.0)).to_the_end().committed()[-1]
    assert last.average is None
    assert profile_of(last).end_lr == 0.0


def test_an_average_that_the_client_can_not_keep_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="ending"):
        Life(config(ending="averaged"))


def test_an_annealing_that_is_undone_leads_back_to_the_plateau() -> None:
    life = Life(config(first_stage=FIRST)).until_stage(1)
    life.step()
    life.step(anneal(100))
    before = lr_after(life)
    life.to_the_end()
    life.step(UNDO)
    assert life.directive.restore
    assert life.now.state.remaining_steps is None
    assert life.directive.n_steps == pytest.approx(life.now.state.committed_steps + FIRST)
    assert lr_after(life) == pytest.approx(before, rel=0.03)
    life.until_stage(3)


def test_what_has_cooled_down_warms_up_again_if_it_is_extended() -> None:
    life = Life(config(first_stage=FIRST)).until_stage(2)
    life.step(anneal(150))
    life.to_the_end()
    total = life.now.state.run_steps + 600
    life.step(PlanChange(kind=ChangeKind.EXTEND, total_steps=total))
    profile = profile_of(life.directive)
    assert life.directive.n_steps == 600
    assert profile.lr(0) < 0.1 * profile.start_lr
    assert (profile.warmup, profile.end_lr) == (RISE, 0.0)
    life.to_the_end()
    assert life.now.state.run_steps == total


def test_an_end_that_moves_before_the_cooldown_moves_the_cooldown() -> None:
    life = Life(config(total_steps=2000, first_stage=FIRST)).until_stage(0)
    life.step(PlanChange(kind=ChangeKind.EXTEND, total_steps=4000))
    life.to_the_end()
    committed = life.committed()
    assert life.now.state.run_steps == 4000
    assert committed[-1].n_steps == pytest.approx(0.2 * life.now.state.committed_steps, abs=2)
    assert profile_of(committed[-1]).end_lr == 0.0
    assert all(profile_of(directive).end_lr > 0 for directive in committed[:-1])


@pytest.mark.parametrize("cooldown", [0.1, 0.5, 1.0])
def test_where_the_end_is_known_the_last_part_is_the_cooldown(cooldown: float) -> None:
    life = Life(config(total_steps=3000, first_stage=FIRST, cooldown=cooldown)).to_the_end()
    last, state = life.committed()[-1], life.now.state
    assert last.n_steps == pytest.approx(cooldown * state.committed_steps, abs=2)
    assert profile_of(last).end_lr == 0.0
    assert state.run_steps == 3000


def test_the_cooldown_falls_along_any_shape() -> None:
    life = Life(config(total_steps=3000, first_stage=FIRST, annealing="one_minus_sqrt")).to_the_end()
    profile = profile_of(life.committed()[-1])
    assert str(profile.shape) == "one_minus_sqrt"
    assert profile.lr(profile.length // 4) / profile.start_lr == pytest.approx(0.5, abs=0.01)
    assert profile.last_lr == 0.0


def test_a_run_that_is_too_short_decays_from_the_lr_that_was_set() -> None:
    life = Life(config(total_steps=300))
    assert "too few steps for a search" in life.directive.reason
    assert life.directive.n_steps == 300
    assert (profile_of(life.directive).peak, profile_of(life.directive).end_lr) == (0.1, 0.0)


@pytest.mark.parametrize("has_validation", [False, True])
def test_the_looks_take_no_more_than_their_share(has_validation: bool) -> None:
    share = OpenEndedOptions().look_share
    life = Life(config(first_stage=500, has_validation=has_validation)).until_stage(0)
    opening = life.now.state.search_steps
    for stage in range(1, 5):
        life.until_stage(stage)
        state = life.now.state
        assert state.search_steps - opening <= share * state.committed_steps
    assert state.search_steps > opening


def test_a_look_that_shows_nothing_changes_nothing() -> None:
    looked = Life(config(first_stage=FIRST, look_share=0.5)).until_stage(3).committed()
    unlooked = Life(config(first_stage=FIRST, look_share=0)).until_stage(3).committed()
    assert [directive.profile for directive in looked] == [directive.profile for directive in unlooked]
    assert (
        sum(d.phase is Phase.PROBE and d.stage > 0 for d in Life(config(look_share=0)).until_stage(3).directives) == 0
    )


class Ruinous(SimulatedTraining):
    """Steps above an LR lose half of what was gained, from so many committed steps on."""

    limit, after = 0.012, 400

    def _step(self, lr: float) -> float:
        loss = super()._step(lr)
        if lr > self.limit and self.weights.n_lrs > self.after:
            self.weights = type(self.weights)(0.9 * self.weights.progress, 0, self.weights.position, self.weights.n_lrs)
        return loss


def test_a_look_lowers_an_lr_at_which_what_was_gained_is_lost() -> None:
    training = Ruinous(noise=0.001)
    life = Life(config(first_stage=FIRST, look_share=0.5), training).until(
        lambda life: life.directive.phase is Phase.PROBE and life.directive.stage > 0
    )
    wanted = profile_of(life.directive).peak
    assert wanted > training.limit
    training.after = life.now.state.committed_steps
    life.until(lambda life: life.directive.phase is Phase.TRAIN)
    assert profile_of(life.directive).peak < training.limit
    decision = life.now.decision
    assert decision is not None
    assert len(decision.candidates) > BRANCHES
    assert decision.lr == pytest.approx(wanted / SPACING ** (len(decision.candidates) - 2), rel=1e-6)


def test_after_other_data_the_plateau_begins_anew_if_its_lr_is_borne() -> None:
    life = Life(config(first_stage=FIRST)).until_stage(3)
    first = profile_of(life.committed()[0]).peak
    before = profile_of(life.directive).start_lr
    life.step(REPLAN)
    assert life.directive.phase is Phase.PROBE
    assert profile_of(life.directive).peak == pytest.approx(first)
    life.until(lambda life: life.directive.phase is Phase.TRAIN)
    profile = profile_of(life.directive)
    assert profile.start_lr == pytest.approx(first)
    assert life.directive.n_steps == FIRST
    assert profile.lr(0) == pytest.approx(before, rel=0.2), "it rises from where it was"
    assert life.directive.promise == (), "the losses before the change promise nothing"
    assert "other images" in life.directive.reason


def test_a_larger_batch_moves_the_lr_and_nothing_else() -> None:
    life = Life(config(first_stage=FIRST)).until_stage(2)
    life.step()
    before = life.now.state.present_lr
    life.step(PlanChange(kind=ChangeKind.REPLAN, batch_factor=4.0))
    assert life.directive.phase is Phase.TRAIN
    assert before is not None
    assert profile_of(life.directive).start_lr == pytest.approx(2 * before, rel=0.05)


def test_data_that_changed_unannounced_are_seen() -> None:
    life = Life(config(first_stage=400)).until_stage(2)
    life.step()
    life.step()
    directive = life.directive
    shifted = Report(directive_number=directive.number, outcome=Outcome.PARTIAL, losses=(2.0, 2.1) * 50)
    life.tell(shifted)
    change = life.directive.change
    assert change is not None
    assert (change.kind, change.origin) == (ChangeKind.REPLAN, ChangeOrigin.POLICY)
    assert life.directive.phase is Phase.PROBE


@pytest.mark.parametrize("has_validation", [False, True])
def test_with_patience_a_run_that_gains_nothing_cools_down_and_ends(has_validation: bool) -> None:
    life = Life(config(first_stage=FIRST, patience=2, has_validation=has_validation)).to_the_end()
    state, last = life.now.state, life.committed()[-1]
    assert state.status is Status.FINISHED
    assert last.change is not None
    assert (last.change.kind, last.change.origin) == (ChangeKind.ANNEAL, ChangeOrigin.POLICY)
    assert "gained nothing" in last.reason
    assert last.n_steps == pytest.approx(0.2 * state.committed_steps, abs=2)
    assert profile_of(last).end_lr == 0.0


def test_a_run_that_gains_is_not_ended_by_patience() -> None:
    life = Life(config(first_stage=FIRST, patience=1, look_share=0), SlowTraining()).until_stage(3)
    assert life.now.state.total_steps is None


def test_a_divergence_goes_back_to_the_beginning_of_its_stage() -> None:
    life = Life(config(first_stage=FIRST)).until_stage(2)
    committed, before = life.now.state.committed_steps, profile_of(life.directive).peak
    life.step()
    directive = life.directive
    losses = (*([0.2] * 20), math.nan)
    life.tell(Report(directive_number=directive.number, outcome=Outcome.DIVERGED, losses=losses))
    assert life.directive.restore
    assert life.now.state.committed_steps == committed
    assert profile_of(life.directive).start_lr == pytest.approx(before / SPACING, rel=1e-6)
    # No look leads back up.
    later = life.until_stage(4).committed()
    assert max(profile_of(directive).peak for directive in later[-2:]) <= before / SPACING


def test_steps_that_lose_half_of_what_was_gained_are_rolled_back() -> None:
    life = Life(config(first_stage=FIRST)).until_stage(2)
    (bar,) = life.directive.promise
    assert life.now.state.last_loss is not None
    assert life.now.state.last_loss < bar.loss < 2.5
    short = Report(directive_number=life.directive.number, outcome=Outcome.FELL_SHORT, losses=(bar.loss + 1,) * 50)
    life.tell(short)
    assert life.directive.restore
    decision = life.now.decision
    assert decision is not None
    assert decision.setback is not None
    assert "lost half" in life.directive.reason


def test_what_it_found_is_left_to_the_family() -> None:
    life = Life(config()).until_stage(0)
    optimum = policies.find("open_ended").optimum(
        policies.find("open_ended").state_type.model_validate(life.now.state.policy_state)
    )
    assert optimum is not None
    assert optimum.probe_steps == BLIND_PROBE
    assert math.exp(optimum.log_lr) == pytest.approx(BEST, rel=1.5)


# A run that ends by time.


class Timed(SimulatedTraining):
    """Its steps take as long as a function of the seconds so far says."""

    def __init__(self, *arguments: Any, pace: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.pace, self.seconds = pace, 0.0

    def run(self, directive: Directive) -> Report:
        report, seconds = super().run(directive), 0.0
        for _ in report.losses:
            seconds += self.pace(self.seconds + seconds)
        self.seconds += seconds
        return report.model_copy(update={"wall_time_s": seconds})


PACES: dict[str, Any] = {
    "steady": lambda _: 0.05,
    "slower and slower": lambda s: 0.02 * (1 + s / 20),
    "twice as slow from half time": lambda s: 0.02 if s < 50 else 0.04,
    "twice as fast from half time": lambda s: 0.04 if s < 50 else 0.02,
    "now and then": lambda s: 0.02 if int(s) % 7 else 0.06,
}
TOTAL_S = 100.0


@pytest.mark.parametrize("has_validation", [False, True])
@pytest.mark.parametrize("pace", PACES)
def test_the_lr_is_at_zero_when_the_time_is_over(pace: str, has_validation: bool) -> None:
    training = Timed(pace=PACES[pace], validates=has_validation)
    life = Life(config(total_time_s=TOTAL_S, has_validation=has_validation), training).to_the_end()
    state = life.now.state
    assert state.status is Status.FINISHED
    assert training.seconds == pytest.approx(TOTAL_S, rel=0.02)
    assert state.wall_time_s == pytest.approx(training.seconds)
    assert state.run_steps == state.total_steps == training.n_run
    assert training.lrs[-1] < 0.02 * max(training.lrs)
    assert state.search_steps <= 0.25 * state.run_steps


def test_the_lr_is_laid_over_the_time_and_not_over_the_steps() -> None:
    training = Timed(pace=PACES["twice as slow from half time"])
    Life(config(total_time_s=TOTAL_S), training).to_the_end()
    lrs, peak = training.lrs, max(training.lrs)
    slow = int((training.seconds - 50) / 0.04)
    assert lrs[-slow] == pytest.approx(0.5 * peak, rel=0.15), "half the time is left"
    assert lrs[-slow // 2] == pytest.approx(0.25 * peak, rel=0.15), "a quarter of it is left"


def test_the_lr_never_jumps() -> None:
    training = Timed(pace=PACES["now and then"])
    Life(config(total_time_s=TOTAL_S), training).to_the_end()
    peak = max(training.lrs)
    assert max(abs(b - a) for a, b in itertools.pairwise(training.lrs)) < 0.05 * peak


def test_steps_that_take_long_are_few_and_end_all_the_same() -> None:
    training = Timed(pace=lambda _: 2.0)
    life = Life(config(total_time_s=TOTAL_S), training).to_the_end()
    assert life.now.state.status is Status.FINISHED
    assert training.seconds == pytest.approx(TOTAL_S, abs=60)


def test_a_time_that_is_over_before_the_search_is_ends_at_once() -> None:
    training = Timed(pace=lambda _: 10.0)
    life = Life(config(total_time_s=TOTAL_S), training).to_the_end()
    assert life.now.state.status is Status.FINISHED
    assert life.now.state.committed_steps >= 1


@pytest.mark.parametrize("has_validation", [False, True])
def test_a_start_that_takes_much_of_the_time_leaves_a_sound_run(has_validation: bool) -> None:
    """A server that starts slowly leaves time for one probe alone, and then for fewer steps than it has shown."""
    training = Timed(pace=lambda s: 0.05 if s else 0.4 * TOTAL_S, validates=has_validation)
    life = Life(config(total_time_s=TOTAL_S, has_validation=has_validation), training)
    tried = profile_of(life.directive).peak
    life.until(lambda life: life.directive.phase is Phase.TRAIN)
    assert life.now.decision is not None
    assert life.now.decision.optimum == pytest.approx(tried)
    life.to_the_end()
    assert not any(directive.restore for directive in life.committed()[1:]), "nothing is asked that no probe showed"
    assert training.seconds == pytest.approx(TOTAL_S, rel=0.02)


def test_without_bounds_the_range_test_is_short() -> None:
    asked = config(total_time_s=TOTAL_S).model_copy(update={"lr_bounds": None})
    life = Life(JobConfig.model_validate(asked.model_dump()), Timed(pace=lambda _: 0.1))
    assert (life.directive.phase, life.directive.n_steps) == (Phase.RANGE_TEST, 40)
    life.to_the_end()


def test_a_divergence_does_not_give_the_time_back() -> None:
    training = Timed(pace=PACES["steady"])
    life = Life(config(total_time_s=TOTAL_S), training).until(lambda life: life.now.state.committed_steps > 500)
    before = profile_of(life.directive).peak
    report = training.run(life.directive)
    life.tell(report.model_copy(update={"outcome": Outcome.DIVERGED, "losses": (*report.losses[:-1], math.nan)}))
    assert life.directive.restore
    assert profile_of(life.directive).peak <= before / SPACING * (1 + 1e-9)
    life.to_the_end()
    assert training.seconds == pytest.approx(TOTAL_S, rel=0.02)


def test_a_time_that_is_over_after_a_piece_ends_with_a_change_that_says_so() -> None:
    """A stop that no change leads to would look to the client as if the server had stopped tuning."""
    life = Life(config(total_time_s=TOTAL_S), Timed(pace=PACES["steady"])).until(
        lambda life: life.now.state.committed_steps > 500
    )
    report = life.training.run(life.directive)
    life.tell(report.model_copy(update={"wall_time_s": TOTAL_S}))
    assert life.directive.phase is Phase.STOP
    change = life.directive.change
    assert change is not None
    assert (change.kind, change.origin) == (ChangeKind.EXTEND, ChangeOrigin.POLICY)
    assert change.total_steps == life.now.state.run_steps == life.now.state.total_steps


def test_an_end_in_steps_takes_the_place_of_the_time() -> None:
    training = Timed(pace=PACES["steady"])
    life = Life(config(total_time_s=TOTAL_S), training).until(lambda life: life.now.state.committed_steps > 500)
    life.step(anneal(2000))
    life.to_the_end()
    assert training.seconds > TOTAL_S
    assert life.now.state.run_steps == life.now.state.total_steps
