"""What one of two ranks says of the run; the other one's losses are played by a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from unittest import mock

import pytest
import torch
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.backends.torch.losses import AHEAD
from lrpilot.distributed.backend import DistributedBackend
from lrpilot.distributed.ranks import Ranks
from lrpilot.wire.divergence import BAD_LOSSES
from torch import nn

from tests.support.backends.pretended_device import PretendedDevice


class Two(Ranks):
    """This rank and another one, whose values come in the order in which they are asked for."""

    rank = 0

    def __init__(self, other: Sequence[float]) -> None:
        self._other = iter(other)
        self.reductions: list[int] = []
        """How many values each one had."""

    def mean(self, values: Sequence[float]) -> list[float]:
        self.reductions.append(len(values))
        return [(value + next(self._other)) / 2 for value in values]

    def mean_of_first(self, values: Sequence[float]) -> list[float]:
        return self.mean(values)

    def quadratic_mean(self, values: Sequence[float]) -> list[float]:
        self.reductions.append(len(values))
        return [math.sqrt((value**2 + next(self._other) ** 2) / 2) for value in values]

    def maximum(self, values: Sequence[float]) -> list[float]:
        self.reductions.append(len(values))
        return [max(value, next(self._other)) for value in values]


def backend(ranks: Ranks, validation: float = 1.0) -> DistributedBackend:
    model = nn.Linear(2, 1)
    losses = iter([1.0, validation])  # the first one is of the trial call
    own = TorchBackend(model, [torch.optim.SGD(model.parameters(), lr=0.1)], lambda: next(losses), {})
    return DistributedBackend(own, ranks)


def test_each_loss_is_reduced_once_and_none_at_an_ordinary_step() -> None:
    ranks = Two([3.0, 4.0, 5.0])
    rank = backend(ranks)
    rank.begin(8)
    rank.append(torch.tensor(1.0))
    rank.append(torch.tensor(2.0))
    assert ranks.reductions == []
    assert not rank.diverged()
    assert not rank.diverged()
    rank.append(torch.tensor(3.0))
    assert rank.peek() == [1.0, 2.0, 3.0]
    assert rank.flush() == [2.0, 3.0, 4.0]
    assert ranks.reductions == [2, 1]
    assert rank.peek() == []


def test_a_look_waits_for_no_step_that_is_not_old_and_the_report_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    PretendedDevice(monkeypatch)
    ranks = Two([1.0] * 12)
    rank = backend(ranks)
    rank.begin(12)
    seen = []
    for step in range(12):
        rank.append(torch.tensor(math.nan if step == 3 else 1.0))
        seen.append(rank.diverged())
    assert ranks.reductions == [0] * AHEAD + [1] * (12 - AHEAD)
    assert seen.index(True) == 3 + AHEAD
    assert len(rank.flush()) == 12
    assert ranks.reductions[-1] == AHEAD


def test_losses_of_an_earlier_process_are_reduced_again() -> None:
    """A checkpoint has the rank's own."""
    rank = backend(Two([3.0, 4.0]))
    rank.begin(8, earlier=[1.0])
    rank.append(torch.tensor(2.0))
    assert rank.flush() == [2.0, 3.0]


def test_a_loss_of_another_rank_that_is_no_number_is_a_divergence_here() -> None:
    rank = backend(Two([math.nan]))
    rank.begin(8)
    rank.append(torch.tensor(1.0))
    assert rank.diverged()


def test_a_limit_is_one_for_the_mean() -> None:
    rank = backend(Two([1.0] * BAD_LOSSES + [4.0] * BAD_LOSSES))
    rank.begin(2 * BAD_LOSSES, limit=3.0)
    for _ in range(2 * BAD_LOSSES):
        assert not rank.diverged()
        rank.append(torch.tensor(4.0))
    assert rank.diverged()


def test_a_validation_is_the_mean_or_failed_for_all() -> None:
    assert backend(Two([3.0]), 2.0).validate() == 2.5
    assert backend(Two([math.nan]), 2.0).validate() is None
    assert backend(Two([3.0]), math.inf).validate() is None


def test_measures_are_quadratic_means_reduced_once_and_at_the_end() -> None:
    ranks = Two([3.0, 4.0, 1.0, 7.0])
    rank = backend(ranks)
    rank.begin(8)
    rank.measure(8, {"gradient_norm": [1.0]})
    rank.append(torch.tensor(1.0))
    assert rank.flush() == [2.0]
    assert math.isnan(rank.peek_measures()["gradient_norm"][1])  # nothing was updated
    rank.measure(8, {"gradient_norm": [4.0, 1.0, 1.0]})
    assert ranks.reductions == [1]
    assert rank.flush_measures(3) == {"gradient_norm": pytest.approx([4.0, 1.0, 5.0])}
    assert ranks.reductions == [1, 3]


def test_the_largest_logit_is_the_largest_over_the_ranks() -> None:
    rank = backend(Two([7.0, 5.0]))
    rank.measure(8, {"gradient_norm": [1.0], "output_logit": [6.0]})
    found = rank.flush_measures(1)
    assert found == {"gradient_norm": pytest.approx([13.0**0.5]), "output_logit": [7.0]}


def test_products_are_means_over_the_ranks_since_they_have_a_sign() -> None:
    ranks = Two([-4.0, 3.0])
    rank = backend(ranks)
    rank.measure(8, {"gradient_norm": [1.0], "update_product": [2.0]})
    found = rank.flush_measures(1)
    assert found == {"gradient_norm": pytest.approx([5.0**0.5]), "update_product": [-1.0]}
    assert list(found) == ["gradient_norm", "update_product"]


def test_a_rank_that_can_not_measure_meets_the_others_all_the_same() -> None:
    ranks = Two([3.0, 4.0] * 2)
    rank = backend(ranks)
    rank.begin(8)
    rank.measure(8, {"gradient_norm": (), "another": ()})
    with mock.patch.object(TorchBackend, "flush_measures", side_effect=MemoryError("no more")):
        found = rank.flush_measures(2)
    assert list(found) == ["another", "gradient_norm"]
    assert all(math.isnan(value) for values in found.values() for value in values)
    assert ranks.reductions == [4]
