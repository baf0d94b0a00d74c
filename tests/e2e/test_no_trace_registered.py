"""A probe leaves no trace in optimizers of unusual make, registered objects, and what validation touches."""

from __future__ import annotations

import copy
import dataclasses
import random
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from tests.support.directives import probe, training
from tests.support.traces import N_FEATURES, Bits, Loop, assert_no_trace, batches, differences, loop, seed

CASES: dict[str, Callable[[], Loop]] = {}


def case(make: Callable[[], Loop]) -> Callable[[], Loop]:
    """Adds a training loop to those that are compared."""
    CASES[make.__name__.replace("_", " ")] = make
    return make


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(N_FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
    return loss


# --- optimizers -------------------------------------------------------------------------------------------------------


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


@case
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


@case
def lookahead_as_an_optimizer() -> Loop:
    model = network()
    return loop(model, LookaheadInside(torch.optim.Adam(model.parameters(), lr=0.01)))


@case
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


@case
def an_optimizer_without_a_base_class() -> Loop:
    model = network()
    return loop(model, Plain(model.parameters()))


@case
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


@case
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


# --- registered objects -----------------------------------------------------------------------------------------------


def registered(each: Any, use: Callable[[Any, nn.Module, torch.Tensor], Any]) -> Loop:
    """A loop that calls `use` at every step; what it gives changes the loss."""
    base = loop(network())

    def update(batch: torch.Tensor) -> torch.Tensor:
        return base.update(batch * (1 + 0.01 * use(each, base.model, batch)))

    return dataclasses.replace(base, update=update, register={"it": each})


@case
def a_metric() -> Loop:
    metric = torchmetrics.MeanSquaredError()

    def use(metric: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        metric.update(batch[:, 0], batch[:, 1])
        return metric.compute().item() if metric.update_count % 2 else 1.0

    return registered(metric, use)


@case
def a_collection_of_metrics_with_lists() -> Loop:
    metrics = torchmetrics.MetricCollection([torchmetrics.CatMetric(), torchmetrics.MeanMetric()])

    def use(metrics: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        metrics.update(batch.mean())
        return sum(value.sum().item() for value in metrics.compute().values())

    return registered(metrics, use)


@case
def generators_and_dicts() -> Loop:
    state: dict[str, Any] = {"n": 0, "generator": torch.Generator().manual_seed(1), "best": [1.0], "ema": torch.ones(2)}

    def use(state: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        state["n"] += 1
        state["best"].append(batch.max().item())
        state["ema"] = 0.9 * state["ema"] + batch[0, :2]
        state[state["n"]] = state["best"][-1]
        return torch.rand((), generator=state["generator"]).item() + state["n"] + state["ema"].sum().item()

    return registered(state, use)


@case
def namespaces() -> Loop:
    def use(space: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        space.step += 1
        space.history.append(space.rng.random() + space.python.random())
        return sum(space.history) + space.step

    space = types.SimpleNamespace(step=0, history=[], rng=np.random.default_rng(0), python=random.Random(0))
    return registered(space, use)


@case
def a_loop_of_its_own_class() -> Loop:
    class Trainer:
        def __init__(self) -> None:
            self.step = 0
            self.average: Any = None

    def use(trainer: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        trainer.step += 1
        if trainer.average is None:
            trainer.average = AveragedModel(model)
        trainer.average.update_parameters(model)
        return trainer.step + next(trainer.average.parameters()).sum().item()

    return registered(Trainer(), use)


class Loaded:
    """Has a state dict, and a way of its own to load it."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.inner: dict[str, Any] = {"tensor": torch.zeros(2), "n": 0}
        self.hidden = [0]

    def use(self, batch: torch.Tensor) -> float:
        self.inner["tensor"] += batch[0, :2]
        self.inner["n"] += 1
        self.hidden.append(1)
        return float(self.inner["tensor"].sum() + self.inner["n"] + sum(self.hidden))

    def state_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.inner) if self.how == "copies" else dict(self.inner)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.how == "replaces":
            self.inner = dict(state)
        elif self.how == "copies":
            self.inner = copy.deepcopy(state)
        elif self.how == "consumes":
            self.inner["tensor"], self.inner["n"] = state.pop("tensor"), state.pop("n")
        else:
            self.inner["tensor"].copy_(state["tensor"])
            self.inner["n"] = state["n"]


@pytest.mark.parametrize("how", ["replaces", "copies", "consumes", "fills"])
def test_an_object_with_a_state_dict_leaves_no_trace(how: str) -> None:
    assert_no_trace(lambda: registered(Loaded(how), lambda it, _, batch: float(it.use(batch))))


@case
def a_scaler() -> Loop:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

    def update(batch: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return Loop(model, [optimizer], update, {"scaler": scaler})


@case
def a_teacher_that_follows_with_a_tied_layer() -> Loop:
    model, teacher = network(), network().requires_grad_(False)
    teacher[1] = model[1]
    base = loop(model)

    def update(batch: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = teacher(batch)
            for p, q in zip(teacher.parameters(), model.parameters(), strict=True):
                if p is not q:
                    p.lerp_(q, 0.1)
        return base.update(batch + target.mean())

    return dataclasses.replace(base, update=update, register={"teacher": teacher})


@pytest.mark.parametrize("name", CASES)
def test_a_probe_leaves_no_trace(name: str) -> None:
    assert_no_trace(CASES[name])


# --- validation -------------------------------------------------------------------------------------------------------


def test_a_validation_in_training_mode_leaves_no_trace() -> None:
    def run(validates: bool) -> Any:
        seed()
        model: Any = network()
        model.append(nn.LazyLinear(1))
        model(torch.zeros(2, N_FEATURES))
        model.seen, model.counts, model.best = 0, np.zeros(2), {"loss": 1.0}
        metric = torchmetrics.MeanMetric()
        generator = torch.Generator().manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        base = loop(model, optimizer)

        def validate() -> float:
            with torch.no_grad():
                loss = loss_of(model, torch.randn(5, N_FEATURES)).item()
            model.seen += 1
            model.counts += 1
            model.best["loss"] = min(model.best["loss"], loss)
            model.extra = nn.Linear(1, 1)
            model[1].momentum = 0.5
            model.requires_grad_(False)
            model[0].register_forward_hook(lambda *_: None)
            model[4].eval()
            metric.update(loss)
            torch.rand(1, generator=generator)
            return loss

        steps = [training(0.02, 4, validate_at=[1, 2, 4]), probe(0.5, 3, first=True, validate_at=[3])]
        steps.append(training(0.03, 4, restore=True, validate_at=[2]))
        register = {"metric": metric, "generator": generator}
        tuner = Tuner(
            model,
            optimizer,
            register=register,
            validate=validate if validates else None,
            transport=ScriptedTransport(steps),
            total_steps=11,
        )
        for batch in tuner.batches(batches()):
            tuner.step(base.update(batch))
        return Bits().of([model, optimizer, register, torch.get_rng_state()])

    assert differences(run(validates=False), run(validates=True)) == []
