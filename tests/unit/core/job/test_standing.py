"""What the committed losses come to, driven with reports alone."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import strategies as st
from lrpilot.wire.profile import Profile

from tuner_server.core.job.standing import Standing
from tuner_server.core.messages import LOSS_WINDOW, Outcome, Report, Validation

exact = st.integers(-(2**20), 2**20).map(lambda n: n / 64)
"""Losses whose sums are not rounded."""


def after(standing: Standing, losses: Sequence[float], *validations: float) -> Standing:
    validated = tuple(Validation(step=i, loss=loss) for i, loss in enumerate(validations))
    report = Report(directive_number=1, outcome=Outcome.COMPLETED, losses=tuple(losses), validations=validated)
    return standing.after(report, Profile.constant(0.1, max(len(losses), 1)))


def test_there_is_no_best_before_a_whole_window() -> None:
    short = after(Standing(), [2.0] * (LOSS_WINDOW - 1))
    assert (short.last_loss, short.best_loss) == (2.0, None)
    assert after(short, [2.0]).best_loss == 2.0


def test_one_lucky_batch_is_not_the_best() -> None:
    found = after(Standing(), [1.0] * 20 + [0.0] + [1.0] * 20)
    assert found.best_loss == pytest.approx(1.0 - 1.0 / LOSS_WINDOW)


def test_the_best_stays_when_the_loss_rises_and_the_loss_is_that_of_the_last_window() -> None:
    found = after(after(Standing(), [3.0] * 10 + [1.0] * 10), [5.0] * 10)
    assert (found.best_loss, found.last_loss) == (1.0, 5.0)


def test_validations_count_singly_and_only_those_that_are_numbers() -> None:
    found = after(after(Standing(), [1.0], 0.5, 0.7), [1.0], 0.6, float("nan"))
    assert (found.last_validation, found.best_validation) == (0.6, 0.5)
    later = {"recent_losses": (1.0, 1.0, 1.0), "since_change": 3}
    assert after(found, [1.0]) == found.model_copy(update=later)


def test_the_peak_lr_is_that_of_all_committed_steps() -> None:
    first = after(Standing(), [1.0])
    report = Report(directive_number=2, outcome=Outcome.COMPLETED, losses=(1.0, 1.0))
    assert first.peak_lr == 0.1
    assert first.after(report, Profile.constant(0.05, 2)).peak_lr == 0.1
    assert first.after(report, Profile.constant(0.2, 2)).peak_lr == 0.2


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(parts=st.lists(st.lists(exact, max_size=25), max_size=8))
def test_in_how_many_reports_the_losses_come_is_all_one(parts: list[list[float]]) -> None:
    in_parts = Standing()
    for part in parts:
        in_parts = after(in_parts, part)
    losses = [loss for part in parts for loss in part]
    assert in_parts == after(Standing(), losses)
    if in_parts.best_loss is not None and in_parts.last_loss is not None:
        assert min(losses) <= in_parts.best_loss <= in_parts.last_loss
