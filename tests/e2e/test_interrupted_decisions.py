"""Interrupts go through, and what they met in the middle of a decision is made good."""

from __future__ import annotations

import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.hostile import hostile_run
from tests.support.hostile.hostile_server import Move
from tests.support.training.quick_run import SCRIPT, TOTAL, Run, assert_annealed, warned
from tests.support.training.scripted_directives import training


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_go_through_and_the_next_loop_goes_on(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a decision; the tuning is what it would have been."""

    class Interrupted(ScriptedTransport):
        interrupts = 0

        def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
            self.interrupts += 1
            if self.interrupts in (1, 3, 4, 6):
                raise error
            return super().advance(request, timeout_s)

    def trained(transport: ScriptedTransport) -> tuple[Run, int]:
        run, caught = Run(), 0
        tuner = run.tuner(transport)
        loader = [torch.zeros(1)] * 7
        over = False
        while not over:
            try:
                for _ in tuner.batches(loader):
                    run.step(tuner)
                over = tuner.finished
            except error:
                caught += 1
        assert run.steps == TOTAL == tuner.committed_step + tuner.search_steps
        return run, caught

    whole, _ = trained(ScriptedTransport(SCRIPT))
    run, caught = trained(Interrupted(SCRIPT))
    assert caught == 4
    assert run.lrs == whole.lrs
    assert torch.equal(run.parameter, whole.parameter)
    assert not [line for line in warned(caplog) if "failed" in line]


class InterruptedOnce(ScriptedTransport):
    """In the middle of the second decision."""

    interrupted = False

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        if len(self.reports) == 1 and not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return super().advance(request, timeout_s)


def test_a_loop_that_draws_by_itself_goes_on_where_it_asks_whether_it_is_over() -> None:
    run, transport = Run(), InterruptedOnce(SCRIPT)
    tuner = run.tuner(transport)
    with pytest.raises(KeyboardInterrupt):
        run.train(tuner)
    run.train(tuner)
    assert run.steps == TOTAL
    assert len(transport.reports) == len(SCRIPT)


def test_one_that_does_not_ask_loses_the_tuning_and_no_step() -> None:
    """It has made another step by then, which no report has."""
    run = Run()
    tuner = run.tuner(InterruptedOnce(SCRIPT))
    with pytest.raises(KeyboardInterrupt):
        run.train(tuner)
    run.step(tuner)
    run.train(tuner)
    assert_annealed(run, tuner)


def test_a_close_that_was_interrupted_can_be_repeated() -> None:
    run, transport = Run(), InterruptedOnce([training(0.1, 10), training(0.1, 50)])
    tuner = run.tuner(transport)
    for _ in range(15):
        run.step(tuner)
    with pytest.raises(KeyboardInterrupt):
        tuner.close()
    assert not transport.closed
    tuner.close()
    assert transport.closed
    assert tuner.finished
    assert tuner.committed_step == 15


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("total_steps", [3, 8])
def test_an_interrupt_at_the_last_decision_costs_no_further_step(total_steps: int, draws: bool) -> None:
    plan = (
        Move(pb.PHASE_RANGE_TEST, 8, 0.5),
        Move(pb.PHASE_TRAIN, 5, 0.05, error=KeyboardInterrupt),
    )
    hostile_run.check(hostile_run.Case(total_steps, plan, draws=draws, looks=True, saves_at=0, resumes=False))
