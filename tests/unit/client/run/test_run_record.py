"""The books that a client keeps: what is in the model, and what was taken back."""

from __future__ import annotations

import math

import pytest
from lrpilot.run.run_record import RunRecord
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.training.scripted_directives import probe, training


def report(
    n_steps: int, outcome: pb.Outcome.ValueType, *validations: tuple[int, float], loss: float = 1.0
) -> pb.Report:
    return pb.Report(
        outcome=outcome,
        losses=[loss] * n_steps,
        validations=[pb.Validation(step=step, loss=loss) for step, loss in validations],
    )


ROLLED_BACK = [pb.OUTCOME_DIVERGED, pb.OUTCOME_FELL_SHORT]


@pytest.mark.parametrize("outcome", ROLLED_BACK)
def test_steps_that_are_not_to_stay_take_back_all_since_the_mark(outcome: pb.Outcome.ValueType) -> None:
    record = RunRecord([0.1])
    record.add(training(0.1, 10), report(10, pb.OUTCOME_COMPLETED, (10, 0.5)))
    record.mark()
    directive = training(0.2, 100)
    record.add(directive, report(20, pb.OUTCOME_PARTIAL, (15, 0.4), loss=2.0))
    record.add(training(0.2, 80), report(20, pb.OUTCOME_PARTIAL, loss=3.0))
    assert (record.committed, record.searched) == (50, 0)
    record.add(training(0.2, 60), report(7, outcome, (5, 9.0), loss=4.0))
    assert (record.committed, record.searched, record.steps) == (10, 47, 57)
    schedule = record.schedule("", pb.JobConfig(), None)
    assert schedule.losses == (1.0,) * 10
    assert [(segment.start_step, segment.n_steps) for segment in schedule.segments] == [(0, 10)]
    assert [(validation.step, validation.loss) for validation in schedule.validations] == [(10, 0.5)]
    assert schedule.probes == ()
    assert record.last_lr == 0.1


@pytest.mark.parametrize("outcome", ROLLED_BACK)
def test_a_run_whose_first_steps_are_taken_back_is_at_its_start(outcome: pb.Outcome.ValueType) -> None:
    record = RunRecord([0.1])
    record.mark()
    record.add(probe(0.3, 5, first=True), report(5, pb.OUTCOME_COMPLETED))
    record.add(training(0.2, 100), report(20, outcome))
    assert (record.committed, record.searched, record.last_lr) == (0, 25, None)
    record.add(training(0.05, 75), report(75, pb.OUTCOME_COMPLETED))
    schedule = record.schedule("", pb.JobConfig(), None)
    assert [(segment.start_step, segment.profile.start_lr) for segment in schedule.segments] == [(0, 0.05)]
    assert len(schedule.probes) == 1


def test_the_last_validation_is_that_since_the_mark() -> None:
    record = RunRecord([0.1])
    record.add(training(0.1, 10), report(10, pb.OUTCOME_COMPLETED, (10, 0.5)))
    assert record.last_validation == 0.5
    record.mark()
    assert record.last_validation is None
    record.add(training(0.1, 10), report(9, pb.OUTCOME_PARTIAL, (3, 0.4), (7, 0.3)))
    assert record.last_validation == pytest.approx(0.3)
    record.add(training(0.1, 1), report(1, pb.OUTCOME_FELL_SHORT, (1, math.inf)))
    assert record.last_validation is None


@pytest.mark.parametrize("outcome", ROLLED_BACK)
def test_a_record_that_was_kept_takes_back_as_far(outcome: pb.Outcome.ValueType) -> None:
    record = RunRecord([0.1])
    record.add(training(0.1, 10), report(10, pb.OUTCOME_COMPLETED))
    record.mark()
    record.add(training(0.2, 100), report(20, pb.OUTCOME_PARTIAL, (15, 0.4)))
    again = RunRecord([0.1])
    again.load_state_dict(record.state_dict())
    for each in (record, again):
        assert each.last_validation == pytest.approx(0.4)
        each.add(training(0.2, 80), report(7, outcome))
    assert again.state_dict() == record.state_dict()
    assert (again.committed, again.searched) == (10, 27)


def test_a_probe_that_was_not_like_the_first_is_searched_steps_and_its_note_is_kept() -> None:
    record = RunRecord([0.1])
    record.mark()
    record.add(probe(0.3, 5, first=True), report(5, pb.OUTCOME_COMPLETED))
    unlike = report(2, pb.OUTCOME_UNREPEATABLE, loss=0.5)
    unlike.note = "something is not registered"
    record.add(probe(0.1, 5), unlike)
    again = RunRecord([0.1])
    again.load_state_dict(record.state_dict())
    for each in (record, again):
        assert (each.committed, each.searched) == (0, 7)
        schedule = each.schedule("", pb.JobConfig(), None)
        assert [found.n_steps for found in schedule.probes] == [5, 2]
        assert schedule.unrepeatable == "something is not registered"
