"""A probe leaves no trace in objects of a loop's own classes, nor in generators of random numbers."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import random
import types
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.training.no_trace import Cases, Loop, Net, assert_no_trace, loop

CASES = Cases()


@dataclasses.dataclass(slots=True)
class Slotted:
    """Attributes in slots, one of them empty at first."""

    calls: int = 0
    last: torch.Tensor | None = None
    late: Any = dataclasses.field(init=False)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Its fields can't be set, what they hold can."""

    items: list[float]
    tensor: torch.Tensor


class Private:
    """Names that Python mangles, and a property in the way."""

    __slots__ = ("__dict__", "__hidden")

    def __init__(self) -> None:
        self.__hidden = 0
        self.visible = 0

    @property
    def total(self) -> int:
        return self.__hidden + self.visible

    def step(self) -> None:
        self.__hidden += 1
        self.visible += 2


class Named(dict[str, Any]):
    """A dict whose items are attributes."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.__dict__ = self


class Stubborn(dict[str, Any]):
    """A dict that refuses what it is not asked to do by a method of its own."""

    def __setitem__(self, *_: Any) -> None:
        raise TypeError("no")

    def clear(self) -> None:
        raise TypeError("no")

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("no")

    def count(self) -> int:
        dict.__setitem__(self, "n", self.get("n", 0) + 1)
        return int(self["n"])


@CASES.add
def helper_objects() -> Loop:
    def hook(net: Any, h: torch.Tensor) -> Any:
        net.slotted.calls += 1
        net.slotted.last = h.detach()
        net.slotted.late = net.slotted.calls
        net.frozen.items.append(1.0)
        net.frozen.tensor.add_(h.mean().detach())
        net.private.step()
        net.space.n += 1
        net.space.added = net.space.n
        net.args.beta *= 0.9
        net.named.n += 1
        n = net.slotted.late + len(net.frozen.items) + net.private.total + net.space.added + net.stubborn.count()
        return h * (1 + 0.01 * n * net.args.beta + net.frozen.tensor * 0.1) + net.slotted.last * net.named["n"]

    return loop(
        Net(
            hook,
            slotted=Slotted(),
            frozen=Frozen([], torch.zeros(8)),
            private=Private(),
            space=types.SimpleNamespace(n=0),
            args=argparse.Namespace(beta=1.0),
            named=Named(n=0),
            stubborn=Stubborn(),
        )
    )


@CASES.add
def generators_of_random_numbers() -> Loop:
    class Meters:
        def __init__(self) -> None:
            self.torch = torch.Generator().manual_seed(3)

    def hook(net: Any, h: torch.Tensor) -> Any:
        noise = net.numpy.normal() + net.legacy.rand() + net.python.random() + net.python.gauss()
        noise += torch.rand((), generator=net.meters.torch).item() + net.draw() + net.bits.random_raw() % 7
        return h * (1 + 0.1 * noise) + 0.1 * torch.randn_like(h) + random.random() + np.random.rand()

    return loop(
        Net(
            hook,
            numpy=np.random.default_rng(1),
            legacy=np.random.RandomState(2),
            python=random.Random(4),
            bits=np.random.PCG64(5),
            meters=Meters(),
            draw=functools.partial(np.random.default_rng(6).normal, 0.0),
        )
    )


@CASES.add
def partials_and_bound_methods() -> Loop:
    class Schedule:
        def __init__(self) -> None:
            self.calls = 0

        def next(self, step: float) -> float:
            self.calls += 1
            return step * self.calls

    def hook(net: Any, h: torch.Tensor) -> Any:
        net.partial.keywords["step"] += 0.01
        net.partial.tag = getattr(net.partial, "tag", 0) + 1
        return h * (1 + net.method(0.02) + net.partial() + 0.01 * net.partial.tag)

    return loop(Net(hook, method=Schedule().next, partial=functools.partial(Schedule().next, step=0.01)))


@pytest.mark.parametrize("name", CASES)
def test_a_probe_leaves_no_trace(name: str) -> None:
    assert_no_trace(CASES[name])
