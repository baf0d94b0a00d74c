"""A decay over a time: pieces at the pace that was seen last."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from tuner_server.core.messages import Outcome, Report
from tuner_server.core.stages import time_line
from tuner_server.core.stages.time_line import BLIND_STEPS, TimeLine


def report(n_steps: int, seconds: float) -> Report:
    return Report(directive_number=1, outcome=Outcome.COMPLETED, losses=(1.0,) * n_steps, wall_time_s=seconds)


def test_the_line_leads_from_its_lr_to_zero() -> None:
    line = TimeLine(lr=0.1, left_s=80.0)
    assert [line.lr_at(left) for left in (100.0, 80.0, 40.0, 8.0)] == [
        0.1,
        0.1,
        pytest.approx(0.05),
        pytest.approx(0.01),
    ]
    assert line.lr_at(0.0) == line.lr_at(-1.0) == 0.1, "past the end there is no LR that would be better"


def test_the_pace_follows_the_last_report_half_way() -> None:
    assert time_line.pace(None, report(10, 5.0)) == 0.5
    assert time_line.pace(0.1, report(10, 5.0)) == pytest.approx(0.3)
    assert time_line.pace(0.1, report(10, 0.0)) == 0.1
    assert time_line.pace(None, report(0, 1.0)) is None


def test_a_piece_is_a_part_of_what_is_left_but_not_too_short() -> None:
    assert time_line.piece_s(100.0, 100.0, first=False) == pytest.approx(5.0)
    assert time_line.piece_s(100.0, 100.0, first=True) == pytest.approx(10.0)
    assert time_line.piece_s(3.0, 100.0, first=False) == pytest.approx(0.5)
    assert time_line.is_last(2.0, 100.0)
    assert not time_line.is_last(2.1, 100.0)


def test_steps_are_counted_at_the_pace() -> None:
    assert time_line.steps_in(10.0, 0.3) == 33
    assert time_line.steps_in(-1.0, 0.3) == 0
    assert time_line.steps_in(10.0, None) == BLIND_STEPS


@hypothesis.given(st.floats(1e-3, 1e7), st.floats(1e-3, 1.0))
def test_the_pieces_of_any_time_come_to_its_end(total: float, from_share: float) -> None:
    left, pieces = total * from_share, 0
    while not time_line.is_last(left, total):
        left -= time_line.piece_s(left, total, first=pieces == 0)
        pieces += 1
    assert pieces < 100
    assert left > 0
