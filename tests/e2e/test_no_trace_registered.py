"""A probe leaves no trace in registered objects, nor a validation in what it touches."""

from __future__ import annotations

import copy
import dataclasses
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tests.support.training.no_trace import (
    N_FEATURES,
    Bits,
    Cases,
    Loop,
    assert_no_trace,
    batches,
    differences,
    loop,
    loss_of,
    network,
    seed,
)
from tests.support.training.scripted_directives import probe, training

CASES = Cases()


# --- registered objects -----------------------------------------------------------------------------------------------


def registered(each: Any, use: Callable[[Any, nn.Module, torch.Tensor], Any]) -> Loop:
    """A loop that calls `use` at every step; what it gives changes the loss."""
    base = loop(network())

    def update(batch: torch.Tensor) -> torch.Tensor:
        return base.update(batch * (1 + 0.01 * use(each, base.model, batch)))

    return dataclasses.replace(base, update=update, register={"it": each})


@CASES.add
def a_metric() -> Loop:
    metric = torchmetrics.MeanSquaredError()

    def use(metric: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        metric.update(batch[:, 0], batch[:, 1])
        return metric.compute().item() if metric.update_count % 2 else 1.0

    return registered(metric, use)


@CASES.add
def a_collection_of_metrics_with_lists() -> Loop:
    metrics = torchmetrics.MetricCollection([torchmetrics.CatMetric(), torchmetrics.MeanMetric()])

    def use(metrics: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        metrics.update(batch.mean())
        return sum(value.sum().item() for value in metrics.compute().values())

    return registered(metrics, use)


@CASES.add
def generators_and_dicts() -> Loop:
    state: dict[str, Any] = {"n": 0, "generator": torch.Generator().manual_seed(1), "best": [1.0], "ema": torch.ones(2)}

    def use(state: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        state["n"] += 1
        state["best"].append(batch.max().item())
        state["ema"] = 0.9 * state["ema"] + batch[0, :2]
        state[state["n"]] = state["best"][-1]
        return torch.rand((), generator=state["generator"]).item() + state["n"] + state["ema"].sum().item()

    return registered(state, use)


@CASES.add
def namespaces() -> Loop:
    def use(space: Any, model: nn.Module, batch: torch.Tensor) -> Any:
        space.step += 1
        space.history.append(space.rng.random() + space.python.random())
        return sum(space.history) + space.step

    space = types.SimpleNamespace(step=0, history=[], rng=np.random.default_rng(0), python=random.Random(0))
    return registered(space, use)


@CASES.add
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


@CASES.add
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


@CASES.add
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
