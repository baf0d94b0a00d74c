"""What the members of a population report."""

from __future__ import annotations

import math

import pytest
from lrpilot.errors import ProtocolError
from lrpilot.run.runners.round import Round
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.training.scripted_directives import probe

N_STEPS = 16
"""Looks for a divergence are every two steps."""
NAN = math.nan


def directives(*limits: float | None) -> list[pb.Directive]:
    """A round at LRs 1, 2, ..., with limits of divergence, as it is given out."""
    told = []
    for i, limit in enumerate(limits):
        told.append(probe(i + 1.0, N_STEPS, first=not i, apart=True))
        if limit is not None:
            told[-1].give_up_above = limit
    told[0].alongside.extend(told[1:])
    for i, each in enumerate(told):
        each.number, each.taken_along = i + 5, i > 0
    return told


def ended(given: list[pb.Directive], *losses: list[float]) -> Round:
    found = Round(given[0], 0)
    found.end(losses)
    return found


@pytest.mark.parametrize(("member", "lr", "limit"), [(0, 1.0, 9.0), (1, 2.0, None), (2, 3.0, 7.0), (3, 1.0, 9.0)])
def test_members_beyond_the_probes_repeat_the_first_ones(member: int, lr: float, limit: float | None) -> None:
    own = Round(directives(9.0, None, 7.0)[0], member).own
    assert own.profile.start_lr == lr
    assert own.HasField("give_up_above") == (limit is not None)
    assert own.give_up_above == (limit or 0.0)
    assert (own.number, own.snapshot, own.n_steps) == (5, True, N_STEPS)


def test_each_probe_is_reported_by_its_number() -> None:
    given = directives(None, None)
    found = ended(given, [1.0] * N_STEPS, [2.0] * N_STEPS, [3.0] * N_STEPS)
    assert found.first_losses == [1.0, 2.0]
    for directive, loss in zip(given, (1.0, 2.0), strict=True):
        report = found.report(directive)
        assert (report.directive_number, report.outcome) == (directive.number, pb.OUTCOME_COMPLETED)
        assert list(report.losses) == [loss] * N_STEPS


@pytest.mark.parametrize(
    ("losses", "limit", "seen"),
    [
        ([1.0, NAN, *[1.0] * 14], None, 2),
        ([1.0, 1.0, NAN, *[1.0] * 13], None, 4),
        ([*[1.0] * 15, math.inf], None, 16),
        ([*[1.0] * 3, *[9.0] * 13], 5.0, 8),  # the fifth loss in a row above the limit is the eighth of all
    ],
)
def test_a_divergence_is_reported_where_one_rank_would_have_given_up(
    losses: list[float], limit: float | None, seen: int
) -> None:
    given = directives(None, limit)
    report = ended(given, [1.0] * N_STEPS, losses).report(given[1])
    assert report.outcome == pb.OUTCOME_DIVERGED
    assert list(map(str, report.losses)) == list(map(str, losses[:seen]))


def test_the_first_probe_counts_the_steps_that_all_have_made() -> None:
    given = directives(None, None)
    found = ended(given, [1.0, NAN, *[7.0] * 14], [1.0, NAN, *[7.0] * 14])
    first, second = (found.report(each) for each in given)
    assert list(map(str, first.losses)) == list(map(str, [1.0, *[NAN] * 15]))
    assert len(second.losses) == 2


def test_a_round_that_ended_early_has_diverged_on_all() -> None:
    given = directives(None, None)
    found = ended(given, [1.0, 2.0], [1.0, 2.0])
    assert [found.report(each).outcome for each in given] == [pb.OUTCOME_DIVERGED] * 2


def test_what_was_not_tried_is_not_reported() -> None:
    given = directives(None, None)
    found = ended(given, [1.0] * N_STEPS, [1.0] * N_STEPS)
    for number, lr in ((4, 2.0), (7, 2.0), (6, 2.5)):
        asked = probe(lr, N_STEPS, taken_along=True)
        asked.number = number
        with pytest.raises(ProtocolError, match=f"directive {number} is said to be tried, and was not"):
            found.report(asked)
