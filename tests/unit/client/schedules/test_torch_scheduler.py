"""Shapes as PyTorch schedulers: the same LRs as PyTorch's own where they are the same, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrpilot import schedules
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, PolynomialLR

N = 40


def optimizer(lr: float | torch.Tensor = 0.2) -> Optimizer:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups: list[dict[str, Any]] = [{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.05}]
    return SGD(groups, lr=lr)


def lrs(make: Callable[[Optimizer], LRScheduler], n_steps: int = N) -> list[list[float]]:
    opt = optimizer()
    scheduler = make(opt)
    found = []
    for _ in range(n_steps):
        found.append([float(group["lr"]) for group in opt.param_groups])
        opt.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("theirs", "ours", "options"),
    [
        (lambda o: CosineAnnealingLR(o, N), "cosine", {}),
        (lambda o: LinearLR(o, 1.0, 0.0, N), "linear", {}),
        (lambda o: LinearLR(o, 1.0, 0.25, N), "linear", {"floor": 0.25}),
        (lambda o: LinearLR(o, 0.1, 1.0, N // 2), "constant", {"warmup": N // 2, "warmup_from": 0.1}),
        (lambda o: PolynomialLR(o, N, 1.7), "polynomial(1.7)", {}),
    ],
)
def test_lrs_are_those_of_pytorch(theirs: Callable[[Optimizer], LRScheduler], ours: str, options: Any) -> None:
    wanted = lrs(theirs)
    found = lrs(lambda o: schedules.scheduler(o, ours, N, **options))
    assert torch.tensor(found) == pytest.approx(torch.tensor(wanted), rel=1e-5, abs=1e-8)


def test_one_cycle_is_that_of_pytorch() -> None:
    # PyTorch's reaches its peak at step 0.3 N - 1, and its end at step N - 1.
    wanted = lrs(lambda o: OneCycleLR(o, [0.2, 0.05], N, cycle_momentum=False))
    shape = schedules.one_cycle((0.3 * N - 1) / (N - 1))
    found = lrs(lambda o: schedules.scheduler(o, shape, N - 1))
    assert torch.tensor(found) == pytest.approx(torch.tensor(wanted), rel=1e-5)


def test_a_warm_up_has_no_step_that_stands_still_and_groups_keep_their_ratio() -> None:
    found = lrs(lambda o: schedules.scheduler(o, "rex", N, warmup=3))
    assert [lr for lr, _ in found[:4]] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert all(b == pytest.approx(a / 4) for a, b in found)


def test_an_lr_that_is_a_tensor_is_set_in_place() -> None:
    tensor = torch.tensor(0.2)
    weight = torch.nn.Parameter(torch.ones(2))
    opt = SGD([weight], lr=tensor, foreach=False)
    held = opt.param_groups[0]["lr"]
    scheduler = schedules.scheduler(opt, "linear", 4)
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(0.15)


def test_a_scheduler_goes_on_from_its_checkpoint() -> None:
    opt, again = optimizer(), optimizer()
    one = schedules.scheduler(opt, "one_cycle", N)
    for _ in range(17):
        opt.step()
        one.step()
    state, weights = one.state_dict(), opt.state_dict()
    other = schedules.scheduler(again, "one_cycle", N)
    again.load_state_dict(weights)
    other.load_state_dict(state)
    for _ in range(10):
        for each in (opt, again, one, other):
            each.step()
        assert one.get_last_lr() == other.get_last_lr()


def test_an_infinite_schedule_anneals_when_it_is_asked_to_and_survives_a_checkpoint() -> None:
    opt, infinite = optimizer(), schedules.InfiniteSchedule(2, 10)
    scheduler = schedules.scheduler(opt, infinite)
    for step in range(1, 41):
        opt.step()
        if step == 20:
            infinite.anneal(step, 10)
        scheduler.step()
        if step == 19:
            assert scheduler.get_last_lr() == pytest.approx([0.11, 0.0275])
    assert scheduler.get_last_lr() == pytest.approx([0.02, 0.005])
    resumed = schedules.InfiniteSchedule(2, 10)
    schedules.scheduler(optimizer(), resumed).load_state_dict(scheduler.state_dict())
    assert resumed.annealing_from == 20


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ("linear", {}, "total_steps: None"),
        ("linear", {"total_steps": 5, "warmup": 5}, "warm-up of 5"),
        ("exponential", {"total_steps": 5}, "never reaches zero"),
        ("bent", {"total_steps": 5}, "not known"),
    ],
)
def test_what_makes_no_scheduler_is_refused(shape: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schedules.scheduler(optimizer(), shape, **options)
