"""Jobs whose client tries several probes at the same time: what is told beforehand, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.budget_jobs import PLAIN, bowl, committed, config, probed, report_on, search
from tests.support.jobs.simulated_training import Run
from tuner_server.core import policies
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.messages import BatchSource, Directive, Outcome, Phase, Replacement, Report
from tuner_server.core.policies.base import Step
from tuner_server.core.policies.budget import Budget
from tuner_server.rpc.convert import config_to_pb, directive_to_pb

OF_SEVERAL = {"alongside", "taken_along", "apart"}
"""The fields of a directive that only a job of several members knows."""


def rounds(run: Run) -> list[list[Directive]]:
    """The probes that were tried at the same time."""
    found: list[list[Directive]] = []
    for exchange in run.of(Phase.PROBE):
        if not exchange.directive.taken_along:
            found.append([])
        found[-1].append(exchange.directive)
    return found


def ratio(run: Run, other: Run) -> float:
    return math.exp(abs(math.log(committed(run) / committed(other))))


@pytest.mark.parametrize("best", [3e-4, 1e-2, 0.3, 3.0])
@pytest.mark.parametrize(("members", "most"), [(2, 4), (3, 3), (4, 2), (8, 2), (64, 2)])
def test_a_search_takes_a_part_of_the_rounds_and_finds_the_same(members: int, most: int, best: float) -> None:
    alone = search(config(**PLAIN), bowl(best))
    run = search(config(members=members, **PLAIN), bowl(best))
    assert len(rounds(run)) <= min(most, math.ceil(len(probed(alone)) / 2))
    assert ratio(run, alone) < 1.5


def test_a_round_costs_the_steps_of_a_probe() -> None:
    run = search(config(members=4, **PLAIN), bowl(1e-2))
    first, second = rounds(run)
    assert [len(first), len(second)] == [4, 4]
    assert run.state.search_steps == first[0].n_steps + second[0].n_steps
    assert run.exchanges[-1].directive.n_steps == 4000 - run.state.search_steps


def test_every_candidate_has_a_directive_a_report_and_a_decision() -> None:
    run = search(config(members=4, **PLAIN), bowl(1e-2))
    told = [each for first, *_ in rounds(run) for each in (first, *first.alongside)]
    tried = run.of(Phase.PROBE)
    assert [exchange.directive.profile for exchange in tried] == [each.profile for each in told]
    assert [exchange.directive.number for exchange in tried] == list(range(1, 9))
    decision = run.exchanges[-1].decision
    assert decision is not None
    assert [c.directive_number for c in decision.candidates] == list(range(1, 9))
    for number, (exchange, lr) in enumerate(zip(tried, probed(run), strict=True)):
        assert exchange.decision is not None
        assert len(exchange.decision.candidates) == number
        assert exchange.decision.lr == lr
        assert exchange.directive.reason.startswith(f"candidate {number + 1}: ")
        assert exchange.directive.reason.endswith(", 4 at the same time")
        assert (exchange.decision.posterior is not None) == (number >= 4)


def test_the_books_are_a_fold_over_the_reports() -> None:
    run = search(config(members=4, **PLAIN), bowl(1e-2))
    reports = [exchange.report for exchange in run.exchanges if exchange.report is not None]
    replayed = machine.replay(config(members=4, **PLAIN), reports)
    assert replayed.state.model_dump_json() == run.state.model_dump_json()


@pytest.mark.parametrize("members", [2, 4])
def test_one_that_diverges_is_one_candidate(members: int) -> None:
    loss = bowl(1e-3, edge_lr=2e-2)
    run = search(config(members=members, **PLAIN), loss)
    outcomes = [exchange.report.outcome for exchange in run.of(Phase.PROBE) if exchange.report]
    assert set(outcomes) == {Outcome.DIVERGED, Outcome.COMPLETED}
    assert ratio(run, search(config(**PLAIN), loss)) < 1.5


def test_where_everything_diverges_the_lr_is_below_all_that_was_tried() -> None:
    run = search(config(members=4, **PLAIN), bowl(1e-9, edge_lr=1e-9))
    assert committed(run) < min(probed(run))


def test_no_probe_is_validated() -> None:
    """Ranks validate on shares of the data, or together."""
    run = search(config(members=2, has_validation=True, **PLAIN), bowl(1e-2))
    assert not any(exchange.directive.validate_at for exchange in run.of(Phase.PROBE))
    assert run.exchanges[-1].directive.validate_at


def test_a_run_too_short_for_probes_one_after_another_may_have_them_at_the_same_time() -> None:
    alone, several = (machine.create(config(600, members=members, probe_steps=40)) for members in (1, 4))
    assert (alone.directive.phase, several.directive.phase) == (Phase.TRAIN, Phase.PROBE)


def test_a_client_that_went_on_by_itself_ends_the_round() -> None:
    state = machine.create(config(members=4, **PLAIN)).state
    state = machine.advance(state, report_on(state.directive, 1.0)).state
    assert state.directive.taken_along
    replacement = Replacement(profile=Profile(Shape.CONSTANT, 0.1, 0.1, 50))
    report = Report(directive_number=2, outcome=Outcome.REPLACED, losses=(1.0,) * 50, replacement=replacement)
    transition = machine.advance(state, report)
    assert transition.directive.phase is Phase.TRAIN
    assert transition.state.committed_steps == 50
    assert transition.directive.n_steps == 4000 - 50 - state.search_steps


def test_a_rollback_that_was_not_complete_ends_the_round() -> None:
    state = machine.create(config(members=4, **PLAIN)).state
    report = Report(directive_number=1, outcome=Outcome.UNREPEATABLE, losses=(1.0,), note="members began otherwise")
    directive = machine.advance(state, report).directive
    assert (directive.phase, directive.taken_along) == (Phase.TRAIN, False)


def test_a_stored_state_is_read_back_in_the_middle_of_a_round() -> None:
    transition = machine.create(config(members=4, **PLAIN))
    transition = machine.advance(transition.state, report_on(transition.directive, 1.0))
    again = JobState.model_validate_json(transition.state.model_dump_json())
    report = report_on(transition.directive, 0.9)
    assert machine.advance(again, report) == machine.advance(transition.state, report)


def test_a_job_of_one_member_is_told_nothing_of_members() -> None:
    """Its messages are those from before there were any, bit for bit."""
    run = search(config(**PLAIN), bowl(1e-2))
    assert not config_to_pb(run.state.config).members
    for exchange in run.exchanges:
        assert not OF_SEVERAL & {field.name for field, _ in directive_to_pb(exchange.directive).ListFields()}


def test_other_policies_refuse_several_members() -> None:
    asked = config(members=2).model_copy(update={"policy": "autolrs", "policy_options": {}})
    with pytest.raises(InvalidInputError, match="members: policy autolrs tries one candidate at a time; take budget"):
        machine.create(asked)


@pytest.mark.parametrize("members", [0, -1, 1025])
def test_members_have_limits(members: int) -> None:
    with pytest.raises(InvalidInputError, match="members"):
        JobConfig.checked(base_lr=0.1, members=members)


# --- what a policy is held to -----------------------------------------------------------------------------------------


def other(directive: Directive, **update: Any) -> Directive:
    return directive.model_copy(update=update)


def policy_that(change: Callable[[Directive], Directive], method: str) -> type[Budget]:
    """Policy budget, with another directive from one of its methods."""

    def changed(self: Budget, *arguments: Any) -> Step[Any]:
        step = getattr(Budget, method)(self, *arguments)
        return Step(step.state, change(step.directive), step.decision)

    return type("Changed", (Budget,), {method: changed})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: other(d, profile=Profile(Shape.CONSTANT, 0.5, 0.5, d.n_steps)), "and is another one now"),
        (lambda d: other(d, taken_along=False), "and is another one now"),
        (lambda d: other(d, give_up_above=3.0), "and is another one now"),
    ],
)
def test_a_policy_is_held_to_what_it_told(
    change: Callable[[Directive], Directive], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transition = machine.create(config(members=2, **PLAIN))
    monkeypatch.setitem(policies.POLICIES, "budget", policy_that(change, "_next_alongside"))
    after = machine.advance(transition.state, report_on(transition.directive, 1.0))
    assert after.state.status is Status.FAILED
    assert words in after.state.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: other(d, alongside=d.alongside * 3),
            "4 probes asked for .* the job has 2 members",
        ),
        (lambda d: other(d, taken_along=True), "no directive has told it"),
        (lambda d: other(d, alongside=(other(d, n_steps=3),)), "as many steps"),
        (lambda d: other(d, alongside=(other(d, batches=BatchSource.FRESH),)), "on the same batches"),
        (lambda d: other(d, alongside=(other(d, alongside=(d,)),)), "tells no further ones"),
        (lambda d: other(d, alongside=(other(d, apart=False),)), "on a replica by itself"),
        (lambda d: other(d, apart=False), "on a replica by itself"),
        (lambda d: other(d, phase=Phase.TRAIN), "no validation and no measure"),
        (lambda d: other(d, validate_at=(1,)), "no validation and no measure"),
        (lambda d: other(d, measures=("gradient_norm",)), "no validation and no measure"),
    ],
)
def test_what_can_not_be_tried_at_the_same_time_is_the_policys_fault(
    change: Callable[[Directive], Directive], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(policies.POLICIES, "budget", policy_that(change, "_round"))
    with pytest.raises(InvalidInputError, match=words):
        machine.create(config(members=2, **PLAIN))


def test_one_member_has_no_replica_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, "budget", policy_that(lambda d: other(d, apart=True), "_probe"))
    with pytest.raises(InvalidInputError, match="the job has one member"):
        machine.create(config(**PLAIN))
