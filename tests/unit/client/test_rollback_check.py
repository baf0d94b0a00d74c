"""The doctor names what a rollback would leave behind, and leaves nothing behind itself."""

from __future__ import annotations

import itertools
import math
import random
import types
from collections.abc import Callable
from typing import Any

import lrpilot
import numpy as np
import pytest
import torch
from lrpilot.backends.torch.rollback.state_paths import fingerprints
from lrpilot.errors import ConfigError
from torch import nn

Step = Callable[[Any], torch.Tensor]


class Loop:
    """A small training loop; what a fault adds to the loss is `extra`."""

    def __init__(self, extra: Callable[[], float] = lambda: 0.0) -> None:
        torch.manual_seed(0)
        self.data = [(x, x.sum(1, keepdim=True)) for x in torch.randn(6, 16, 8)]
        self.model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.extra = extra

    def step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        loss: torch.Tensor = (self.model(x) - y).square().mean() * (1 + self.extra())
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def check(self, **options: Any) -> lrpilot.RollbackCheck:
        return lrpilot.check_rollback(self.model, self.optimizer, self.data, self.step, **options)


def test_a_sound_loop_passes_and_is_left_as_it_was() -> None:
    loop = Loop()
    roots = {"model": loop.model, "optimizer": loop.optimizer}
    before = fingerprints(roots), random.getstate(), torch.get_rng_state()
    found = loop.check()
    assert found.ok
    assert str(found) == "rollback: 3 steps came out the same twice, bit for bit, from one state"
    assert fingerprints(roots) == before[0]
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_variable_of_a_closure_is_found_and_one_line_mends_it() -> None:
    mine = types.SimpleNamespace(n=0)

    def extra() -> float:
        mine.n += 1
        return float(mine.n)

    found = Loop(extra).check()
    assert not found.ok
    assert found.first_different_loss == 0
    assert "The losses differ from step 0 on, before any update" in str(found)
    assert "register=" in str(found)
    assert Loop(extra).check(register={"mine": mine}).ok


def test_a_counter_of_a_c_extension_is_named() -> None:
    loop = Loop()
    counter = loop.model.counter = itertools.count()  # type: ignore[assignment]  # PyTorch knows tensors and modules.
    loop.extra = lambda: float(next(counter))
    found = loop.check()
    assert not found.ok
    assert found.stuck == ("model.counter (count)",)
    assert "These can't be put back, and may be the cause: model.counter (count)." in str(found)


def test_a_difference_that_comes_later_is_named_with_its_step() -> None:
    seen: list[int] = []

    def extra() -> float:
        seen.append(1)
        return float(len(seen) > 4)

    found = Loop(extra).check(n_steps=3)
    assert found.first_different_loss == 1
    assert "model.0.weight" in found.differences
    assert "after 1 of them" in str(found)


def test_several_steps_that_are_not_finite_are_the_same() -> None:
    assert Loop(lambda: math.nan).check().ok


def test_generators_and_arrays_are_compared_by_what_they_will_draw() -> None:
    holder = types.SimpleNamespace(
        python=random.Random(1), numpy=np.random.default_rng(1), legacy=np.random.RandomState(1), array=np.zeros(3000)
    )
    before = fingerprints({"x": holder})
    for draw in (holder.python.random, holder.numpy.random, holder.legacy.random_sample):
        draw()
        now = fingerprints({"x": holder})
        assert [path for path in now if now[path] != before[path]]
        before = now
    holder.array[1500] = 1
    now = fingerprints({"x": holder})
    assert [path for path in now if now[path] != before[path]] == ["x.array"]


def test_wrong_arguments_are_refused() -> None:
    loop = Loop()
    with pytest.raises(ConfigError, match="swapped"):
        lrpilot.check_rollback(loop.optimizer, loop.model, loop.data, loop.step)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="register: 'x' can't be put back, since a count"):
        loop.check(register={"x": itertools.count()})
    with pytest.raises(ValueError, match="empty"):
        lrpilot.check_rollback(loop.model, loop.optimizer, [], loop.step)
