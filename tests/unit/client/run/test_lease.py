"""A directive being carried out: what is due after which step."""

from __future__ import annotations

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.run.lease import CHECKS, LONGEST_BLIND, Event, Lease
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import rest_of, rolls_back


def lease(
    n_steps: int,
    *,
    report_every: int = 0,
    validate_at: tuple[int, ...] = (),
    phase: pb.Phase.ValueType = pb.PHASE_TRAIN,
    offset: int = 0,
) -> Lease:
    profile = pb.Profile(shape="linear", start_lr=1.0, end_lr=0.0, length=n_steps + offset, offset=offset)
    return Lease(
        pb.Directive(
            number=1,
            phase=phase,
            n_steps=n_steps,
            profile=profile,
            report_every=report_every,
            validate_at=validate_at,
        )
    )


def events(running: Lease) -> dict[int, Event]:
    """Runs a lease as its client does, asking for an event only when one is announced."""
    found = {}
    while running.done < running.directive.n_steps:
        running.done += 1
        if running.done == running.next_event:
            found[running.done] = running.event()
    return found


def due(found: dict[int, Event], event: Event) -> list[int]:
    return [step for step, flags in found.items() if event in flags]


def test_a_short_probe() -> None:
    found = events(lease(16, validate_at=(4, 16), phase=pb.PHASE_PROBE))
    assert due(found, Event.CHECK) == [2, 4, 6, 8, 10, 12, 14, 16]
    assert due(found, Event.VALIDATE) == [4, 16]
    assert due(found, Event.END) == [16]
    assert due(found, Event.PART) == []


@pytest.mark.parametrize(
    ("n_steps", "looks"),
    [(3, [3]), (5, [4, 5]), (12, [4, 8, 12]), (20, [4, 8, 12, 16, 20]), (40, [5, 10, 15, 20, 25, 30, 35, 40])],
)
def test_where_looks_cost_something_a_short_probe_has_fewer(n_steps: int, looks: list[int]) -> None:
    directive = pb.Directive(phase=pb.PHASE_PROBE, n_steps=n_steps, profile=lease(n_steps).directive.profile)
    running = Lease(directive, steps_between_looks=4)
    assert due(events(running), Event.CHECK) == looks
    # A run that is resumed in its middle looks after the same steps.
    resumed = Lease(directive, n_steps // 2, steps_between_looks=4)
    assert due(events(resumed), Event.CHECK) == [step for step in looks if step > n_steps // 2]


def test_parts_come_at_multiples_but_the_end_is_none() -> None:
    found = events(lease(100, report_every=25))
    assert due(found, Event.PART) == [25, 50, 75]
    assert due(found, Event.END) == [100]
    assert {25, 50, 75, 100} <= set(due(found, Event.CHECK))


def test_one_step() -> None:
    assert events(lease(1, validate_at=(1,))) == {1: Event.END | Event.CHECK | Event.VALIDATE}


def test_validation_before_the_first_step() -> None:
    assert lease(5, validate_at=(0, 5)).validates_first
    assert not lease(5, validate_at=(5,)).validates_first
    assert due(events(lease(5, validate_at=(0, 5))), Event.VALIDATE) == [5]


@pytest.mark.parametrize(
    ("phase", "committed"),
    [(pb.PHASE_WARM_UP, True), (pb.PHASE_TRAIN, True), (pb.PHASE_PROBE, False), (pb.PHASE_RANGE_TEST, False)],
)
def test_which_phases_are_committed(phase: pb.Phase.ValueType, committed: bool) -> None:
    assert lease(5, phase=phase).committed is committed


def test_the_lr_is_that_of_the_step_which_comes_next() -> None:
    running = lease(4)
    seen = []
    for running.done in range(4):
        seen.append(running.lr())
    assert seen == [1.0, 0.75, 0.5, 0.25]
    assert not running.constant
    assert lease(4, offset=4).lr() == 0.5


@hypothesis.given(
    n_steps=st.integers(1, 600),
    report_every=st.integers(0, 200),
    validate_at=st.sets(st.integers(0, 600), max_size=6),
)
def test_no_event_is_missed_and_none_is_late(n_steps: int, report_every: int, validate_at: set[int]) -> None:
    validate_at = {step for step in validate_at if step <= n_steps}
    at = tuple(sorted(validate_at))
    found = events(lease(n_steps, report_every=report_every, validate_at=at))
    every_step = {}
    reference = lease(n_steps, report_every=report_every, validate_at=at)
    for step in range(1, n_steps + 1):
        reference.done = step
        if event := reference.event():
            every_step[step] = event
    assert found == every_step
    assert due(found, Event.END) == [n_steps]
    assert due(found, Event.VALIDATE) == sorted(validate_at - {0})
    assert due(found, Event.PART) == ([*range(report_every, n_steps, report_every)] if report_every else [])
    checks = [0, *due(found, Event.CHECK)]
    blind = max(later - earlier for earlier, later in itertools.pairwise(checks))
    assert blind <= min(max(n_steps // CHECKS, 1), LONGEST_BLIND)
    assert checks[-1] == n_steps


def test_the_rest_of_a_directive_has_its_bars_where_they_were() -> None:
    promise = [pb.Bar(from_step=step, loss=level) for step, level in ((10, 2.0), (30, 1.5), (80, 1.0))]
    directive = pb.Directive(number=4, phase=pb.PHASE_TRAIN, n_steps=100, promise=promise)
    rest = rest_of(directive, 30)
    assert [(bar.from_step, bar.loss) for bar in rest.promise] == [(0, 2.0), (0, 1.5), (50, 1.0)]
    assert [(bar.from_step, bar.loss) for bar in rest_of(rest, 45).promise] == [(0, 2.0), (0, 1.5), (5, 1.0)]
    assert [bar.from_step for bar in directive.promise] == [10, 30, 80]
    assert (rest.number, rest.n_steps) == (5, 70)


@pytest.mark.parametrize(
    ("outcome", "rolled_back"),
    [
        (pb.OUTCOME_COMPLETED, False),
        (pb.OUTCOME_PARTIAL, False),
        (pb.OUTCOME_REPLACED, False),
        (pb.OUTCOME_DIVERGED, True),
        (pb.OUTCOME_FELL_SHORT, True),
    ],
)
def test_which_committed_steps_are_not_to_stay(outcome: pb.Outcome.ValueType, rolled_back: bool) -> None:
    assert rolls_back(pb.Report(outcome=outcome)) is rolled_back


@pytest.mark.parametrize("taken_back", [1, 3, 9])
def test_steps_that_were_none_are_made_again_before_the_end(taken_back: int) -> None:
    probed = lease(20, validate_at=(10,), phase=pb.PHASE_PROBE)
    probed.done = 20
    assert Event.END in probed.event()
    probed.take_back(taken_back)
    assert probed.done == 20 - taken_back
    assert probed.lr() == probed.profile.lr(20 - taken_back)
    events = []
    while probed.done < 20:
        probed.done += 1
        if probed.done >= probed.next_event:
            events.append(probed.event())
    assert [Event.END in each for each in events] == [False] * (len(events) - 1) + [True]
