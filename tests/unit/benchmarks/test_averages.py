"""Averages of weights, held to the vectors of exponential averages and of merging."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from benchmarks.quality.averages import ExponentialAverage, PolynomialAverage

DEBIASED = (1.0, 5 / 3, 17 / 7, 49 / 15, 129 / 31)
"""The exponential averages of 1, 2, 3, 4, 5 with a decay of a half, each divided by 1 - decay^n."""
LINEAR_DECAY = tuple(1 - i / 6 for i in range(1, 6))


def _at_zero(n: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(n, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


def _move(model: nn.Module, optimizer: torch.optim.Optimizer, updates: Sequence[float]) -> None:
    """One step by `updates`."""
    (weight,) = model.parameters()
    weight.grad = -torch.tensor([updates])
    optimizer.step()


def test_an_exponential_average_is_the_debiased_one_of_the_vectors_times_its_bias() -> None:
    model, optimizer = _at_zero(1)
    average = ExponentialAverage(model, optimizer, memory=1 / math.log(2), every=1)
    for n, debiased in enumerate(DEBIASED, 1):
        _move(model, optimizer, [1.0])
        with average.in_place():
            (weight,) = model.parameters()
            assert weight.item() / (1 - 0.5**n) == pytest.approx(debiased, rel=1e-6)


def test_the_uniform_average_of_iterates_is_the_end_of_a_linear_decay() -> None:
    """The identity of merging (arXiv 2507.17634): the weight of each update in the average is its decayed LR."""
    model, optimizer = _at_zero(len(LINEAR_DECAY))
    average = PolynomialAverage(model, optimizer, gamma=0.0)
    _move(model, optimizer, [0.0] * len(LINEAR_DECAY))
    for i in range(len(LINEAR_DECAY)):
        _move(model, optimizer, [float(i == j) for j in range(len(LINEAR_DECAY))])
    with average.in_place():
        (weight,) = model.parameters()
        assert weight.flatten().tolist() == pytest.approx(LINEAR_DECAY)
