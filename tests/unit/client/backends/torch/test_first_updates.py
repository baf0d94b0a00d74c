"""The first updates of a fresh optimizer of the user's kind; what the user's own optimizer has is not touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lrpilot.backends.torch.first_updates import AT, first_updates
from torch import nn, optim


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optim.SGD(weights(), lr=0.3), [1.0] * len(AT)),
        (optim.SGD(weights(), lr=0.3, momentum=0.9, weight_decay=0.1), [(1 - 0.9**k) / 0.1 for k in AT]),
        (optim.SGD(weights(), lr=0.3, momentum=0.9, maximize=True), [(1 - 0.9**k) / 0.1 for k in AT]),
        (optim.Adam(weights(), lr=0.3), [1.0] * len(AT)),
        (optim.AdamW(weights(), lr=0.3, betas=(0.95, 0.99), fused=True), [1.0] * len(AT)),
        (optim.RMSprop(weights(), lr=0.3), [(1 - 0.99**k) ** -0.5 for k in AT]),
        (optim.Adagrad(weights(), lr=0.3), [k**-0.5 for k in AT]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_updates_have_the_sizes_that_the_optimizer_is_known_for(
    optimizer: optim.Optimizer, expected: list[float]
) -> None:
    assert first_updates(optimizer) == pytest.approx(expected, rel=1e-4)


class Needy(optim.SGD):
    """Can't be made without something of its user's."""

    def __init__(self, params: Any, teacher: nn.Module) -> None:
        self.teacher = teacher
        super().__init__(params, lr=0.1)


class Lazy(optim.SGD):
    """Moves nothing."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes no update."""


@pytest.mark.parametrize(
    "optimizer",
    [Needy(weights(), nn.Linear(2, 2)), Lazy(weights()), optim.LBFGS(weights())],
    ids=lambda o: type(o).__name__,
)
def test_of_one_that_can_not_be_tried_nothing_is_known(optimizer: optim.Optimizer) -> None:
    assert first_updates(optimizer) == ()


def test_neither_the_users_optimizer_nor_random_state_is_touched() -> None:
    optimizer = optim.SGD(weights(), lr=0.1, momentum=0.9)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3, 2)
    optimizer.step()
    before, state = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
    first_updates(optimizer)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert torch.equal(after["state"][0]["momentum_buffer"], before["state"][0]["momentum_buffer"])
    assert torch.equal(torch.get_rng_state(), state)
