"""What committed steps are held to, and by which bar."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lrpilot
import pytest
import torch
from lrpilot.run.promise import is_above
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directive_steps import bar_of
from lrpilot.wire.messages.directives import rest_of
from torch import nn

from tests.support.training.scripted_directives import probe, training

PROMISE = [
    pb.Bar(from_step=10, loss=2.0),
    pb.Bar(from_step=20, loss=1.5, validation=0.5),
    pb.Bar(from_step=80, loss=math.inf),
]


# --- which bar counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begin", "bar"), [(0, None), (9, None), (10, 0), (19, 0), (20, 1), (79, 1), (80, 2), (10**12, 2)]
)
def test_the_last_bar_that_a_report_begins_at_or_after_counts(begin: int, bar: int | None) -> None:
    assert bar_of(PROMISE, begin) == (None if bar is None else PROMISE[bar])


def test_of_bars_from_the_same_step_the_last_one_counts() -> None:
    bars = [pb.Bar(from_step=5, loss=level) for level in (3.0, 2.0, 1.0)]
    assert bar_of(bars, 5) == bars[2]


def test_nothing_promised_is_nothing_to_be_held_to() -> None:
    assert bar_of([], 100) is None


# --- what is above it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "above"),
    [
        ([2.0], False),
        ([math.nextafter(2.0, 3.0)], True),
        ([9.0, 9.0, 0.0], True),
        ([1e10, 0.0, 0.0], False),  # a bad batch
        ([-9.0], False),
    ],
)
def test_the_median_counts_and_may_be_at_the_bar(losses: list[float], above: bool) -> None:
    assert is_above(PROMISE[0], losses, [], None) is above


def test_nothing_is_above_a_bar_at_infinity() -> None:
    assert not is_above(PROMISE[2], [3e38] * 9, [1e300, 1e300], 1e300)


@pytest.mark.parametrize(
    ("before", "validations", "above"),
    [
        (None, [], False),
        (None, [9.0], False),
        (9.0, [], False),
        (9.0, [0.5], False),
        (0.5, [9.0], False),
        (0.6, [0.6], True),
        (None, [9.0, 9.0], True),
        (0.1, [9.0, 9.0], True),
        (9.0, [9.0, 0.1], False),
        (9.0, [0.1, 9.0], False),
    ],
)
def test_two_validations_in_a_row_are_above_a_bar_or_none_is(
    before: float | None, validations: list[float], above: bool
) -> None:
    assert is_above(PROMISE[1], [1.0], validations, before) is above


def test_a_bar_without_a_level_for_validations_does_not_hold_them_to_zero() -> None:
    assert not is_above(PROMISE[0], [1.0], [9.0, 9.0], 9.0)


# --- in a run ---------------------------------------------------------------------------------------------------------

PARTS = 10
"""Steps of a report."""


def run(
    losses: Sequence[float],
    promise: Sequence[pb.Bar],
    validations: Sequence[float] = (),
    validate_at: Sequence[int] = (),
) -> ScriptedTransport:
    """A run of so many committed steps, with these losses, in parts."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    directive = training(0.1, len(losses), report_every=PARTS, promise=promise, validate_at=validate_at)
    rest = [rest_of(directive, done) for done in range(PARTS, len(losses), PARTS)]
    transport = ScriptedTransport([directive, *rest])
    values = iter([1.0, *validations])  # the first is a trial
    with lrpilot.Tuner(
        model,
        optimizer,
        total_steps=len(losses),
        transport=transport,
        strict=True,
        validate=(lambda: next(values)) if validations else None,
    ) as tuner:
        for loss in losses:
            tuner.step(loss)
            if transport.reports and transport.reports[-1].outcome == pb.OUTCOME_FELL_SHORT:
                break
    return transport


def outcomes(transport: ScriptedTransport) -> list[pb.Outcome.ValueType]:
    return [report.outcome for report in transport.reports]


PARTIAL, SHORT, COMPLETED = pb.OUTCOME_PARTIAL, pb.OUTCOME_FELL_SHORT, pb.OUTCOME_COMPLETED


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0] * 20 + [1.5] * 60 + [9.0] * 20, [PARTIAL] * 9 + [COMPLETED]),
        # Before the first bar a loss may be anything; from it on its mean is looked at, part by part.
        ([9.0] * 10 + [2.1] * 90, [PARTIAL, SHORT]),
        ([2.0] * 20 + [1.6] * 80, [PARTIAL, PARTIAL, SHORT]),
        ([1.0] * 70 + [9.0] * 10 + [1.0] * 20, [PARTIAL] * 7 + [SHORT]),
    ],
)
def test_every_report_is_held_to_the_bar_of_its_first_step(
    losses: list[float], expected: list[pb.Outcome.ValueType]
) -> None:
    transport = run(losses, PROMISE)
    assert outcomes(transport) == expected
    assert all(len(report.losses) == PARTS for report in transport.reports)


def test_a_divergence_is_no_broken_promise() -> None:
    transport = run([1.0] * 10 + [9.0] * 5 + [math.nan] * 5 + [1.0] * 10, PROMISE)
    assert outcomes(transport)[:2] == [PARTIAL, pb.OUTCOME_DIVERGED]


def test_the_last_report_of_a_directive_is_held_to_its_bar() -> None:
    assert outcomes(run([1.0] * 20 + [9.0] * 10, PROMISE)) == [PARTIAL, PARTIAL, SHORT]


def test_validations_are_compared_across_reports() -> None:
    """One that is above the bar, and one in the next report."""
    kept = run([1.0] * 60, PROMISE, [0.6, 0.4, 0.6, 0.4], validate_at=(15, 25, 35, 45))
    assert outcomes(kept) == [PARTIAL] * 5 + [COMPLETED]
    broken = run([1.0] * 60, PROMISE, [0.4, 0.6, 0.6], validate_at=(15, 25, 35))
    assert outcomes(broken) == [PARTIAL] * 3 + [SHORT]
    # The first of them may have come before there was a bar for it.
    early = run([1.0] * 60, PROMISE, [0.6, 0.6], validate_at=(15, 25))
    assert outcomes(early) == [PARTIAL] * 2 + [SHORT]


def test_after_a_rollback_validations_from_before_it_do_not_count() -> None:
    promise = [pb.Bar(from_step=0, loss=9.0, validation=0.5)]
    first = training(0.1, 20, report_every=PARTS, promise=promise, validate_at=(5, 15))
    again = training(0.05, 20, True, report_every=PARTS, promise=promise, validate_at=(5, 15))
    transport = ScriptedTransport([first, rest_of(first, PARTS), again, rest_of(again, PARTS)])
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    values = iter([1.0, 0.9, 0.9, 0.9, 0.4])
    with lrpilot.Tuner(
        model, optimizer, total_steps=40, transport=transport, strict=True, validate=lambda: next(values)
    ) as tuner:
        for _ in range(40):
            tuner.step(1.0)
    assert outcomes(transport) == [PARTIAL, SHORT, PARTIAL, COMPLETED]


def test_a_broken_promise_restores_the_model_and_takes_the_steps_back() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = training(0.1, 20, True, report_every=PARTS, promise=[pb.Bar(from_step=0, loss=1.0)])
    transport = ScriptedTransport([probe(0.1, 5, first=True), first, training(0.05, 20, True)])
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    with lrpilot.Tuner(model, optimizer, total_steps=35, transport=transport, strict=True) as tuner:
        for _ in range(5 + PARTS):
            with torch.no_grad():
                model.weight.add_(1.0)
            tuner.step(2.0)
        assert outcomes(transport) == [COMPLETED, SHORT]
        assert all(torch.equal(value, begin[name]) for name, value in model.state_dict().items())
        assert (tuner.committed_step, tuner.search_steps, tuner.lr) == (0, 5 + PARTS, 0.05)
        assert tuner.schedule.losses == ()
        assert [len(each.losses) for each in tuner.schedule.probes] == [5]
