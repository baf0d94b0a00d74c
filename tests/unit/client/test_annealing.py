"""Without a server the rest of the budget is annealed to zero, in the same words a server would use."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.convert import profile_from_proto
from lrpilot.transport.annealing import PART, AnnealingTransport
from lrpilot.v1 import tuner_pb2 as pb


def answer(
    transport: AnnealingTransport, directive: pb.Directive, outcome: pb.Outcome.ValueType, n_steps: int
) -> pb.Directive:
    report = pb.Report(directive_number=directive.number, outcome=outcome, losses=[1.0] * n_steps)
    return transport.advance(pb.AdvanceRequest(job_id="job", report=report), 1.0).directive


def lrs(directive: pb.Directive, n_steps: int) -> list[float]:
    profile = profile_from_proto(directive.profile)
    return [profile.lr(step) for step in range(n_steps)]


def test_the_rest_of_the_budget_decays_linearly_to_zero_and_stops() -> None:
    transport = AnnealingTransport(0.4, 4)
    directive = transport.begin(7, restore=True)
    assert (directive.number, directive.phase, directive.n_steps) == (7, pb.PHASE_TRAIN, 4)
    assert directive.restore
    assert not directive.snapshot
    assert lrs(directive, 4) == pytest.approx([0.4, 0.3, 0.2, 0.1])
    stop = answer(transport, directive, pb.OUTCOME_COMPLETED, 4)
    assert (stop.number, stop.phase, stop.n_steps, stop.restore) == (8, pb.PHASE_STOP, 0, False)


@pytest.mark.parametrize("restore", [True, False])
def test_a_spent_budget_stops_at_once_but_still_rolls_back(restore: bool) -> None:
    directive = AnnealingTransport(0.4, 0).begin(3, restore=restore)
    assert (directive.phase, directive.restore, directive.number) == (pb.PHASE_STOP, restore, 3)


def test_parts_follow_the_same_line() -> None:
    transport = AnnealingTransport(1.0, 2500)
    directive = transport.begin(1, restore=True)
    whole = lrs(directive, 2500)
    assert directive.report_every == PART
    seen = []
    for _ in range(2):
        seen += lrs(directive, PART)
        directive = answer(transport, directive, pb.OUTCOME_PARTIAL, PART)
        assert not directive.restore
    seen += lrs(directive, directive.n_steps)
    assert seen == whole
    assert directive.number == 3
    assert answer(transport, directive, pb.OUTCOME_COMPLETED, 500).phase == pb.PHASE_STOP


def test_without_an_end_the_lr_stays() -> None:
    transport = AnnealingTransport(0.3, None)
    directive = transport.begin(1, restore=False)
    for number in range(2, 6):
        assert set(lrs(directive, directive.n_steps)) == {0.3}
        directive = answer(transport, directive, pb.OUTCOME_COMPLETED, directive.n_steps)
        assert (directive.number, directive.phase) == (number, pb.PHASE_TRAIN)


def test_a_divergence_goes_back_and_halves_the_lr() -> None:
    transport = AnnealingTransport(0.4, 3000)
    directive = answer(transport, transport.begin(1, restore=False), pb.OUTCOME_PARTIAL, PART)
    directive = answer(transport, directive, pb.OUTCOME_DIVERGED, 200)
    assert directive.restore
    assert directive.n_steps == 1800  # what was run counts, also what was lost
    assert lrs(directive, 1) == [0.2]
    assert lrs(directive, 1801)[-1] == 0.0


@hypothesis.given(total=st.integers(1, 5000), data=st.data())
def test_no_more_steps_than_the_budget_are_run(total: int, data: st.DataObject) -> None:
    transport = AnnealingTransport(0.4, total)
    directive = transport.begin(1, restore=False)
    n_run = 0
    for number in range(1, 60):
        assert directive.number == number
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
        directive = answer(transport, directive, outcome, n_steps)
        assert n_run + directive.n_steps == total
