"""A probe leaves no trace in optimizers inside of others, beside others, and of no usual make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau

from tests.support.training.no_trace import Cases, Loop, assert_no_trace, loop, loss_of, network

CASES = Cases()


class Sharpness(Optimizer):
    """SAM as it is passed around: the inner optimizer shares its groups."""

    def __init__(self, params: Iterable[Any], base: type[Optimizer], rho: float = 0.05, **defaults: Any) -> None:
        super().__init__(params, {"rho": rho, **defaults})
        self.base_optimizer = base(self.param_groups, **defaults)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it gives no loss
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.detach().clone()
                p.add_(p.grad, alpha=group["rho"])
        with torch.enable_grad():
            closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
        self.base_optimizer.step()


@CASES.add
def sharpness_aware_minimisation() -> Loop:
    model = network()
    optimizer = Sharpness(model.parameters(), torch.optim.AdamW, lr=0.01)

    def update(batch: torch.Tensor) -> torch.Tensor:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            torch.autograd.backward(loss)
            return loss

        loss = closure()
        optimizer.step(closure)
        return loss.detach()

    return Loop(model, [optimizer], update)


class LookaheadInside(Optimizer):
    """The wrapper is an optimizer that has the inner one's state and groups as its own."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups
        self.state = inner.state
        self.defaults = inner.defaults
        self.counter = 0
        self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it gives no loss
        self.inner.step()
        self.counter += 1
        if self.counter % 3 == 0:
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for p, q in zip(group["params"], slow, strict=True):
                    p.copy_(q.lerp_(p, 0.5))


class LookaheadOutside:
    """The wrapper is no optimizer, but looks like one; its slow weights are in a dict of its own."""

    def __init__(self, inner: Optimizer) -> None:
        self.optimizer = inner
        self.slow: dict[torch.Tensor, torch.Tensor] = {}
        self.steps = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:
        return self.optimizer.state

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                slow = self.slow.setdefault(p, p.detach().clone())
                if self.steps % 3 == 0:
                    p.copy_(slow.lerp_(p, 0.5))


@CASES.add
def lookahead_as_an_optimizer() -> Loop:
    model = network()
    return loop(model, LookaheadInside(torch.optim.Adam(model.parameters(), lr=0.01)))


@CASES.add
def lookahead_beside_an_optimizer() -> Loop:
    model = network()
    return loop(model, LookaheadOutside(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)))


class Plain:
    """An optimizer without any base class, and slots for what it keeps."""

    __slots__ = ("__weakref__", "momenta", "param_groups", "state", "t")

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(params), "lr": 0.01}]
        self.momenta = [torch.zeros_like(p) for p in self.param_groups[0]["params"]]
        self.state: dict[Any, Any] = {}
        self.t = 0

    def zero_grad(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        group = self.param_groups[0]
        for p, momentum in zip(group["params"], self.momenta, strict=True):
            momentum.mul_(1 - 1 / (self.t + 1)).add_(p.grad)
            p.sub_(momentum, alpha=group["lr"])


@CASES.add
def an_optimizer_without_a_base_class() -> Loop:
    model = network()
    return loop(model, Plain(model.parameters()))


@CASES.add
def several_optimizers_and_a_model_that_holds_them() -> Loop:
    model: Any = network()
    first = torch.optim.SGD(model[0].parameters(), lr=0.01, momentum=0.9)
    second = torch.optim.Adam([*model[1].parameters(), *model[4].parameters()], lr=0.01)
    model.optimizers = [first, second]
    model.schedulers = {"plateau": ReduceLROnPlateau(second), "step": CosineAnnealingLR(second, 30)}

    def update(batch: torch.Tensor) -> torch.Tensor:
        loss = loss_of(model, batch)
        for optimizer in model.optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(loss)
        for optimizer in model.optimizers:
            optimizer.step()
        return loss.detach()

    return Loop(model, [first, second], update)


@CASES.add
def a_scheduler_of_something_else_than_the_lr() -> Loop:
    model: Any = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    model.scheduler = LambdaLR(other, lambda step: 0.9**step)
    base = loop(model, optimizer)

    def update(batch: torch.Tensor) -> torch.Tensor:
        optimizer.param_groups[0]["weight_decay"] = 0.1 * model.scheduler.get_last_lr()[0]
        optimizer.param_groups[0]["momentum"] *= 0.99
        other.step()
        model.scheduler.step()
        return base.update(batch)

    return dataclasses.replace(base, update=update)


@pytest.mark.parametrize("name", CASES)
def test_a_probe_leaves_no_trace(name: str) -> None:
    assert_no_trace(CASES[name])
