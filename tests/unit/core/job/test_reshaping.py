"""What a policy makes of a part of committed steps."""

from __future__ import annotations

import math

import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.scripted_policy import Scripted, report_on, scripted_config, step
from tuner_server.core import policies
from tuner_server.core.errors import PolicyError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Status, Transition
from tuner_server.core.messages import Decision, Directive, Outcome, Phase, Report
from tuner_server.core.policies.base import PolicyState, Progress, Step


class Reshaping(Scripted):
    """Has the LR of the rest fall, and counts the parts that it was told of; "longer" asks for more steps."""

    name = "reshaping"

    def reshape(
        self, state: PolicyState, directive: Directive, report: Report, progress: Progress
    ) -> Step[PolicyState] | None:
        word = self.options.script[1]
        if word == "raise":
            raise PolicyError("as scripted")
        if word == "nothing":
            return None
        assert progress.reported_steps == 0
        profile = Profile(Shape.points([(0, 1), (report.n_steps / 5, 1), (1, 0)]), 0.1, 0.0, 5)
        update = {"profile": profile, "reason": "lower"} | ({"n_steps": 6} if word == "longer" else {})
        decision = Decision(stage=0, lr=0.1, reason="lower")
        return Step(state.model_copy(update={"search_ended": True}), directive.model_copy(update=update), decision)


@pytest.fixture
def reshaping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, Reshaping.name, Reshaping)


def part(word: str) -> tuple[Transition, Transition]:
    """A job with a directive of five steps, before and after a report on two of them."""
    before = machine.create(scripted_config("train", word).model_copy(update={"policy": "reshaping"}))
    return before, step(before, Outcome.PARTIAL, 2)


@pytest.mark.usefixtures("reshaping")
def test_a_policy_may_give_the_rest_of_committed_steps_other_lrs() -> None:
    before, after = part("falls")
    assert (after.directive.n_steps, after.directive.number, after.directive.snapshot) == (3, 2, False)
    assert after.directive.profile is not None
    assert [after.directive.profile.lr(i) for i in range(3)] == pytest.approx([0.1, 0.2 / 3, 0.1 / 3])
    assert after.decision is not None
    assert (after.decision.reason, after.directive.reason) == ("lower", "lower")
    assert after.state.policy_state == {"search_ended": True}
    assert after.state.snapshot_step == before.state.snapshot_step == 0
    # What is rolled back later goes back to the snapshot from before the first part.
    undone = machine.advance(after.state, report_on(after.directive, Outcome.DIVERGED, 1, losses=(math.nan,)))
    assert undone.directive.restore
    assert undone.state.committed_steps == 0


@pytest.mark.usefixtures("reshaping")
def test_a_policy_that_makes_nothing_of_a_part_is_answered_its_rest() -> None:
    before, after = part("nothing")
    assert after.directive == before.directive.after(2).model_copy(update={"number": 2})
    assert after.decision is None


@pytest.mark.usefixtures("reshaping")
@pytest.mark.parametrize(("word", "words"), [("longer", "nothing else"), ("raise", "as scripted")])
def test_a_policy_that_asks_for_more_than_other_lrs_fails_the_job(word: str, words: str) -> None:
    _, after = part(word)
    assert after.state.status is Status.FAILED
    assert words in after.state.message
    assert after.directive.phase is Phase.STOP
