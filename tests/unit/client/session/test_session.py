"""What a session answers to committed steps that fell short, whether its server is there or away."""

from __future__ import annotations

import math

import pytest
from lrpilot.errors import UnavailableError
from lrpilot.session.run_state import RunState
from lrpilot.session.session import Session
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.training.scripted_directives import training

HELD = training(0.3, 100, report_every=10, promise=[pb.Bar(from_step=0, loss=1.0)])
SHORT = pb.Report(directive_number=1, outcome=pb.OUTCOME_FELL_SHORT, losses=[2.0] * 10)
RUN_STATE = RunState(lr=0.1, remaining=90, warm=False)


class Away(ScriptedTransport):
    """Its server can't be reached while `away`."""

    away = False
    left = 0
    beats = 0

    def beat(self, request: pb.BeatRequest) -> None:
        """Counts."""
        self.beats += 1

    def leave_job(self, request: pb.LeaveJobRequest, timeout_s: float) -> pb.LeaveJobResponse:
        """Counts."""
        self.left += 1
        if self.away:
            raise UnavailableError("away", "UNAVAILABLE")
        return pb.LeaveJobResponse()

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        """Unless it is away."""
        if self.away:
            raise UnavailableError("away", "UNAVAILABLE")
        return super().advance(request, timeout_s)


@pytest.fixture(autouse=True)
def looks_for_the_server_at_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrpilot.session.session.LOOK_PAUSE_FACTOR", 0)


def opened(transport: Away, strict: bool = False) -> tuple[Session, pb.Directive]:
    session = Session(transport, pb.JobConfig(total_steps=100, base_lr=0.1), 1.0, strict)
    return session, session.open(RunState(0.1, 100, warm=False))


def test_a_server_that_is_there_decides() -> None:
    lower = training(0.1, 90, restore=True)
    transport = Away([HELD, lower])
    session, directive = opened(transport)
    answer = session.answer(directive, SHORT, RUN_STATE)
    assert (answer.number, answer.restore, answer.profile) == (2, True, lower.profile)
    assert transport.reports == [SHORT]


def test_without_a_server_the_run_goes_back_and_anneals_and_the_server_is_told_in_order() -> None:
    transport = Away([HELD, training(0.1, 90, restore=True), training(0.05, 86)])
    session, directive = opened(transport)
    transport.away = True
    alone = session.answer(directive, SHORT, RUN_STATE)
    assert (alone.phase, alone.restore, alone.snapshot, alone.n_steps) == (pb.PHASE_TRAIN, True, True, 90)
    assert (alone.profile.start_lr, alone.profile.end_lr) == (0.1, 0.0)
    assert not alone.promise
    part = pb.Report(directive_number=alone.number, outcome=pb.OUTCOME_PARTIAL, losses=[1.5] * 4)
    transport.away = False
    answer = session.answer(alone, part, RunState(0.1, 86, warm=True))
    assert [report.outcome for report in transport.reports] == [pb.OUTCOME_FELL_SHORT, pb.OUTCOME_REPLACED]
    assert list(transport.reports[1].losses) == [1.5] * 4
    assert (answer.number, answer.n_steps) == (3, 86)


def test_reports_from_before_the_server_went_away_come_first() -> None:
    transport = Away([HELD, training(0.3, 90), training(0.1, 80, restore=True), training(0.05, 76)])
    session, directive = opened(transport)
    transport.away = True
    part = pb.Report(directive_number=1, outcome=pb.OUTCOME_PARTIAL, losses=[0.5] * 10)
    rest = session.answer(directive, part, RUN_STATE)
    assert [(bar.from_step, bar.loss) for bar in rest.promise] == [(0, 1.0)]
    short = pb.Report(directive_number=rest.number, outcome=pb.OUTCOME_FELL_SHORT, losses=[2.0] * 10)
    alone = session.answer(rest, short, RunState(0.1, 80, warm=False))
    assert (alone.phase, alone.restore, alone.n_steps) == (pb.PHASE_TRAIN, True, 80)
    transport.away = False
    own = pb.Report(directive_number=alone.number, outcome=pb.OUTCOME_PARTIAL, losses=[1.5] * 4)
    session.answer(alone, own, RunState(0.1, 76, warm=True))
    assert [report.directive_number for report in transport.reports] == [1, 2, 3]
    assert transport.reports[1] == short


def test_a_strict_session_raises() -> None:
    transport = Away([HELD])
    session, directive = opened(transport, strict=True)
    transport.away = True
    with pytest.raises(UnavailableError):
        session.answer(directive, SHORT, RUN_STATE)


def test_at_the_end_of_the_budget_the_run_stops_where_it_went_back_to() -> None:
    transport = Away([HELD])
    session, directive = opened(transport)
    transport.away = True
    stop = session.answer(directive, SHORT, RunState(0.1, 0, warm=False))
    assert (stop.phase, stop.restore) == (pb.PHASE_STOP, True)


def test_alone_in_a_run_that_ends_by_time_the_lr_is_constant_until_a_pace_is_known_and_then_comes_to_zero() -> None:
    transport = Away([HELD])
    transport.away = True
    session = Session(transport, pb.JobConfig(total_time_s=10.0, base_lr=0.1), 1.0, strict=False)
    alone = session.abandon("no server", RunState(0.1, None, warm=False))
    assert alone.profile.shape == "constant"
    part = pb.Report(outcome=pb.OUTCOME_PARTIAL, losses=[1.0] * 50, wall_time_s=1.0)
    following = session.answer(alone, part, RunState(0.1, None, warm=True, steps=50, in_time=450))
    assert (following.n_steps, following.profile.end_lr) == (450, 0.0)


def test_steps_along_a_rest_that_got_other_lrs_meanwhile_are_told_as_own_ones() -> None:
    other = training(0.2, 90)
    transport = Away([HELD, other, training(0.1, 70)])
    session, directive = opened(transport)
    transport.away = True
    rest = directive
    for done in (90, 80):
        part = pb.Report(directive_number=rest.number, outcome=pb.OUTCOME_PARTIAL, losses=[0.5] * 10)
        rest = session.answer(rest, part, RunState(0.3, done, warm=True))
    assert rest.profile.offset == 20
    transport.away = False
    last = pb.Report(directive_number=rest.number, outcome=pb.OUTCOME_PARTIAL, losses=[0.4] * 10)
    answer = session.answer(rest, last, RunState(0.3, 70, warm=True))
    assert [report.outcome for report in transport.reports] == [pb.OUTCOME_PARTIAL, pb.OUTCOME_REPLACED]
    own = transport.reports[1]
    assert list(own.losses) == pytest.approx([0.5] * 10 + [0.4] * 10)
    assert (own.replacement.profile.offset, own.replacement.profile.start_lr) == (10, HELD.profile.start_lr)
    assert (answer.number, answer.n_steps) == (3, 70)


def test_a_session_that_is_closed_leaves_its_job_once_and_gives_no_signs_any_more() -> None:
    transport = Away([HELD])
    session, _ = opened(transport)
    session.beat(3)
    for _ in range(2):
        session.close()
        session.beat(4)
    assert (transport.left, transport.beats) == (1, 1)
    assert session.beat_due == math.inf


def test_a_job_that_has_ended_is_not_left() -> None:
    transport = Away([pb.Directive(phase=pb.PHASE_STOP)])
    session, _ = opened(transport)
    session.close()
    assert transport.left == 0


def test_a_server_that_is_away_keeps_no_session_open() -> None:
    transport = Away([HELD])
    session, _ = opened(transport)
    transport.away = True
    session.close()
    assert transport.closed


def test_a_process_that_ends_leaves_its_job_unless_the_server_was_missed_lately() -> None:
    transport = Away([HELD, training(0.1, 90)])
    session, directive = opened(transport)
    session.end()
    assert transport.left == 1
    transport.away = True
    session.answer(directive, SHORT, RUN_STATE)
    session.end()
    assert transport.left == 1


def test_a_report_puts_off_the_next_sign() -> None:
    transport = Away([HELD, training(0.1, 90, restore=True)])
    session, directive = opened(transport)
    due = session.beat_due
    assert due < math.inf
    session.answer(directive, SHORT, RUN_STATE)
    assert session.beat_due >= due
