from __future__ import annotations

import logging

import pytest
from lrpilot.run.lease import Lease
from lrpilot.run.runners.announcer import Announcer
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.profiles import profile_to_proto
from lrpilot.wire.profile import Profile, Shape


def told(caplog: pytest.LogCaptureFixture, *directives: tuple[int, int, str]) -> list[str]:
    """What everybody is told of committed directives, each of a stage, an offset and a reason."""
    announcer = Announcer()
    with caplog.at_level(logging.INFO, "lrpilot"):
        for stage, offset, reason in directives:
            profile = profile_to_proto(Profile(Shape.LINEAR, 0.1, 0.0, 100, offset=offset))
            phase = pb.PHASE_TRAIN
            directive = pb.Directive(phase=phase, n_steps=10, profile=profile, stage=stage, reason=reason)
            announcer.announce(Lease(directive), "train")
    return [record.getMessage().rpartition(": ")[2] for record in caplog.records]


def test_a_decision_is_told_and_what_goes_on_is_not(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, (0, 0, "the best"), (0, 50, "going on")) == ["the best"]


def test_a_new_stage_is_told_where_the_lr_rises_from_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, (0, 0, "the best"), (1, 30, "new data"), (1, 60, "going on")) == ["the best", "new data"]


def test_pieces_of_one_plan_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, (0, 0, "the best"), (0, 0, "a piece"), (0, 0, "a piece")) == ["the best", "a piece"]
