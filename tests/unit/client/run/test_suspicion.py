"""Losses that no LR could have made are said to be such, once, and sound ones never."""

from __future__ import annotations

import math

import pytest
from lrpilot.run.runners.suspicion import Suspicion

from tests.support.training.quick_run import warned
from tests.support.training.scripted_directives import probe, training


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_first_loss_that_is_not_finite_is_no_matter_of_the_lr(loss: float, caplog: pytest.LogCaptureFixture) -> None:
    suspicion = Suspicion()
    suspicion.reported(probe(0.1, 8), [loss], untrained=True)
    suspicion.reported(probe(0.3, 8), [loss], untrained=False)
    (warning,) = warned(caplog)
    assert warning.startswith(f"lrpilot: the first loss is {loss:g}, before any update, so no LR is the cause")


def test_probes_that_no_lr_changes_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    suspicion = Suspicion()
    for _ in range(2):
        suspicion.reported(probe(0.1, 4), [3.0, 2.0, 4.0, 1.0], untrained=False)
        suspicion.reported(probe(0.3, 3), [3.0, 2.0, 4.0], untrained=False)
        suspicion.search_over()
        suspicion.reported(training(0.1, 4), [3.0, 2.0, 4.0, 1.0], untrained=False)
        suspicion.search_over()
    (warning,) = warned(caplog)
    assert "the losses of 2 probes are the same at all LRs from 0.1 to 0.3" in warning


@pytest.mark.parametrize(
    "probes",
    [
        [(0.1, [3.0, 2.0]), (0.3, [3.0, 1.0])],
        [(0.1, [3.0, 2.0]), (0.3, [3.0, 1.0]), (0.2, [3.0, 1.0])],
        [(0.1, [3.0, 2.0]), (0.1, [3.0, 2.0])],  # one LR
        [(0.1, [3.0, 2.0])],
        [(0.1, [3.0]), (0.3, [3.0])],  # the first loss is always the same
        [(0.1, [3.0, math.nan]), (0.3, [3.0, math.nan])],
        [(0.1, [3.0, 2.0]), (0.3, [3.0])],  # one that diverged at once
        [],
    ],
)
def test_nothing_is_said_of_others(probes: list[tuple[float, list[float]]], caplog: pytest.LogCaptureFixture) -> None:
    suspicion = Suspicion()
    for lr, losses in probes:
        suspicion.reported(probe(lr, len(losses)), losses, untrained=True)
    suspicion.search_over()
    assert warned(caplog) == []
