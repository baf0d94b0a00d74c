"""Without a server the rest of the budget is annealed to zero, in the same words a server would use."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.session.annealing import LONGEST_PART, Annealing
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.profiles import profile_from_proto


def begun(lr: float, remaining: int | None, *, restore: bool = False, warm: bool = True) -> Annealing:
    return Annealing(lr, remaining, restore=restore, warm=warm)


def answer(annealing: Annealing, outcome: pb.Outcome.ValueType, n_steps: int) -> pb.Directive:
    annealing.take(pb.Report(outcome=outcome, losses=[1.0] * n_steps, wall_time_s=2.0))
    return annealing.directive


def lrs(directive: pb.Directive, n_steps: int) -> list[float]:
    profile = profile_from_proto(directive.profile)
    return [profile.lr(step) for step in range(n_steps)]


def test_the_rest_of_the_budget_decays_linearly_to_zero_and_stops() -> None:
    annealing = begun(0.4, 4, restore=True)
    directive = annealing.directive
    assert (directive.phase, directive.n_steps) == (pb.PHASE_TRAIN, 4)
    assert directive.restore
    assert directive.snapshot
    assert lrs(directive, 4) == pytest.approx([0.4, 0.3, 0.2, 0.1])
    stop = answer(annealing, pb.OUTCOME_COMPLETED, 4)
    assert (stop.phase, stop.n_steps, stop.restore) == (pb.PHASE_STOP, 0, False)


def test_a_run_without_committed_steps_warms_up_first() -> None:
    directive = begun(0.4, 100, warm=False).directive
    rates = lrs(directive, 100)
    assert rates[:6] == pytest.approx([0.4 * i / 6 for i in range(1, 7)])
    assert max(rates) == 0.4


@pytest.mark.parametrize("restore", [True, False])
def test_a_spent_budget_stops_at_once_but_still_rolls_back(restore: bool) -> None:
    directive = begun(0.4, 0, restore=restore).directive
    assert (directive.phase, directive.restore) == (pb.PHASE_STOP, restore)


def test_parts_follow_the_same_line() -> None:
    annealing = begun(1.0, 25_000, restore=True)
    whole = lrs(annealing.directive, 25_000)
    assert annealing.directive.report_every == LONGEST_PART
    seen = []
    for _ in range(2):
        seen += lrs(annealing.directive, LONGEST_PART)
        assert not answer(annealing, pb.OUTCOME_PARTIAL, LONGEST_PART).restore
    rest = annealing.directive
    seen += lrs(rest, rest.n_steps)
    assert seen == whole
    assert answer(annealing, pb.OUTCOME_COMPLETED, rest.n_steps).phase == pb.PHASE_STOP


def test_without_an_end_the_lr_stays() -> None:
    annealing = begun(0.3, None)
    for _ in range(4):
        directive = annealing.directive
        assert set(lrs(directive, directive.n_steps)) == {0.3}
        assert answer(annealing, pb.OUTCOME_COMPLETED, directive.n_steps).phase == pb.PHASE_TRAIN


def test_a_divergence_goes_back_and_halves_the_lr() -> None:
    annealing = begun(0.4, 3000)
    answer(annealing, pb.OUTCOME_PARTIAL, 1000)
    directive = answer(annealing, pb.OUTCOME_DIVERGED, 200)
    assert directive.restore
    assert directive.n_steps == 1800  # what was run counts, also what was lost
    assert lrs(directive, 1) == [0.2]
    assert lrs(directive, 1801)[-1] == 0.0


def test_the_server_is_told_what_was_done_and_what_was_wasted() -> None:
    annealing = begun(0.4, 300)
    answer(annealing, pb.OUTCOME_PARTIAL, 20)
    answer(annealing, pb.OUTCOME_DIVERGED, 3)
    answer(annealing, pb.OUTCOME_PARTIAL, 7)
    report = annealing.replacement()
    assert report.outcome == pb.OUTCOME_REPLACED
    assert (len(report.losses), report.replacement.wasted_steps, report.wall_time_s) == (7, 23, 6.0)
    assert (report.replacement.profile.start_lr, report.replacement.profile.offset) == (0.2, 0)


def test_what_was_told_is_not_told_again_nor_taken_back() -> None:
    annealing = begun(0.4, 300)
    answer(annealing, pb.OUTCOME_PARTIAL, 20)
    annealing.replacement()
    assert annealing.directive.snapshot  # a divergence from here on leads back to here
    answer(annealing, pb.OUTCOME_PARTIAL, 10)
    answer(annealing, pb.OUTCOME_DIVERGED, 1)
    report = annealing.replacement()
    assert (len(report.losses), report.replacement.wasted_steps) == (0, 11)
    assert not report.replacement.HasField("profile")


def test_a_checkpoint_goes_on_alike() -> None:
    annealing = begun(0.4, 300)
    answer(annealing, pb.OUTCOME_PARTIAL, 20)
    copy = Annealing.from_state_dict(annealing.state_dict())
    for each in (annealing, copy):
        answer(each, pb.OUTCOME_DIVERGED, 5)
    assert copy.directive == annealing.directive
    assert copy.replacement() == annealing.replacement()


@hypothesis.given(total=st.integers(1, 5000), data=st.data())
def test_no_more_steps_than_the_budget_are_run_and_all_are_told(total: int, data: st.DataObject) -> None:
    annealing = begun(0.4, total)
    n_run = told = 0
    for _ in range(60):
        directive = annealing.directive
        if directive.phase == pb.PHASE_STOP:
            break
        outcomes = [pb.OUTCOME_COMPLETED, pb.OUTCOME_DIVERGED]
        if directive.n_steps > 1:
            outcomes.append(pb.OUTCOME_PARTIAL)
        outcome = data.draw(st.sampled_from(outcomes))
        n_steps = directive.n_steps
        if outcome != pb.OUTCOME_COMPLETED:
            n_steps = data.draw(st.integers(1, n_steps - (outcome == pb.OUTCOME_PARTIAL)))
        n_run += n_steps
        directive = answer(annealing, outcome, n_steps)
        assert n_run + directive.n_steps == total
        if data.draw(st.booleans()):
            report = annealing.replacement()
            told += len(report.losses) + report.replacement.wasted_steps
            assert told == n_run


def test_without_a_snapshot_a_divergence_halves_the_lr_and_takes_nothing_back() -> None:
    annealing = Annealing(0.4, 300, restore=False, warm=True, rolls_back=False)
    assert not annealing.directive.snapshot
    directive = answer(annealing, pb.OUTCOME_DIVERGED, 20)
    assert (directive.restore, directive.snapshot, directive.n_steps) == (False, False, 280)
    assert lrs(directive, 1) == [0.2]
    copy = Annealing.from_state_dict(annealing.state_dict())
    assert not answer(copy, pb.OUTCOME_DIVERGED, 5).restore
