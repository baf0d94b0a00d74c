from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from benchmarks.quality.adalrs import AdaLrs, descent
from benchmarks.quality.schedules import WARMUP
from benchmarks.quality.training import train
from benchmarks.quality.workloads import Batch, Session

N_STEPS = 500
"""A window has ten steps, the warm-up 25; the search ends after 150."""
WINDOW, WARM = 10, round(WARMUP * N_STEPS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def session() -> Session:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Session(model, optimizer, lambda _generator: (), lambda *_: torch.zeros(()), (), 0)


@pytest.fixture
def rule(session: Session) -> AdaLrs:
    """A rule at a peak of 1 whose warm-up is over and whose loss fell by 0.1 a step in a first window, to 4."""
    rule = AdaLrs(session, 1.0, N_STEPS)
    _feed(rule, WARM * [9.0])
    _fall(rule, 5.0, 0.1)
    return rule


def _feed(rule: AdaLrs, losses: list[float]) -> None:
    for loss in losses:
        rule.trained(loss)


def _fall(rule: AdaLrs, start: float, slope: float) -> None:
    """A window of losses on a line."""
    _feed(rule, [start - slope * i for i in range(WINDOW)])


def _weights(session: Session) -> Iterator[float]:
    return (float(value) for parameter in session.model.parameters() for value in parameter.detach().flatten())


def _move(session: Session) -> None:
    with torch.no_grad():
        for parameter in session.model.parameters():
            parameter.add_(1.0)


def test_the_descent_of_a_line_is_its_slope() -> None:
    assert descent([3.0, 2.5, 2.0, 1.5]) == pytest.approx(0.5)
    assert descent([0.0, 2.0, 1.0]) == pytest.approx(-0.5)


def test_a_loss_that_falls_as_fast_as_before_changes_nothing(rule: AdaLrs) -> None:
    _fall(rule, 4.0, 0.11)
    assert rule.peak_lr == 1.0


def test_a_higher_peak_is_kept_where_the_loss_falls_faster(rule: AdaLrs, session: Session) -> None:
    _fall(rule, 4.0, 0.05)
    assert rule.peak_lr == 3.0
    _move(session)
    moved = list(_weights(session))
    _fall(rule, 3.5, 0.06)
    assert (rule.peak_lr, rule.n_undone, list(_weights(session))) == (3.0, 0, moved)


def test_where_it_falls_no_faster_the_run_goes_back_and_the_peak_is_lowered(rule: AdaLrs, session: Session) -> None:
    _fall(rule, 4.0, 0.05)
    before = list(_weights(session))
    _move(session)
    _fall(rule, 3.5, 0.04)
    assert rule.peak_lr == pytest.approx(0.5**0.99)
    assert (rule.n_undone, list(_weights(session))) == (WINDOW, before)


@pytest.mark.parametrize("loss", [5.0, float("inf"), float("nan")])
def test_a_jump_ends_a_try_at_once(loss: float, rule: AdaLrs, session: Session) -> None:
    _fall(rule, 4.0, 0.05)
    before = list(_weights(session))
    _move(session)
    _feed(rule, [3.5, loss])
    assert rule.peak_lr == pytest.approx(0.5**0.99)
    assert (rule.n_undone, list(_weights(session))) == (2, before)


def test_the_factors_shrink_with_every_try(rule: AdaLrs) -> None:
    _fall(rule, 4.0, 0.05)
    _fall(rule, 3.5, 0.06)
    _fall(rule, 3.0, 0.02)
    assert rule.peak_lr == pytest.approx(3.0 * 3.0**0.99)


def test_after_three_tenths_of_the_run_nothing_is_tried(rule: AdaLrs) -> None:
    n_left = round(0.3 * N_STEPS) - WARM - WINDOW
    _feed(rule, [4.0 - 0.05 * i**2 for i in range(n_left)])
    _fall(rule, 0.0, 0.01)
    _fall(rule, 0.0, 0.001)
    assert rule.peak_lr == 1.0


@pytest.mark.parametrize("lr", [1e-5, 1e-4])
def test_an_lr_that_is_far_too_low_rises_by_more_than_a_decade_on_a_convex_problem(lr: float) -> None:
    """What the paper shows of convex losses, and without noise: an LR of 2 would diverge."""
    curvature = torch.tensor([1.0, 0.1])
    batch = (torch.zeros(1),)

    def loss(model: nn.Module, _batch: Batch) -> torch.Tensor:
        return 0.5 * torch.sum(curvature * next(model.parameters()) ** 2)

    model = nn.Linear(2, 1, bias=False)
    session = Session(model, torch.optim.SGD(model.parameters(), lr=lr), lambda _generator: batch, loss, [batch], 0)
    rule = AdaLrs(session, lr, 1000)
    curve = train(session, 1000, rule, trained=rule.trained)
    assert 10 * lr < rule.peak_lr < 2.0
    assert curve.final_val_loss < curve.val_losses[0]
