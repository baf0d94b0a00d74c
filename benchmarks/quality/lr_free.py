"""The contestants that find their LR by themselves, within the optimizer."""

from __future__ import annotations

import torch
from dadaptation import DAdaptAdam, DAdaptSGD
from prodigyopt import Prodigy
from torch import nn
from torch.optim import Optimizer

from benchmarks.quality.averages import PolynomialAverage
from benchmarks.quality.contestant import by_name, lr_free
from benchmarks.quality.dog import DoG, DoWG
from benchmarks.quality.lr_rules import ShapedLr
from benchmarks.quality.mechanic import Mechanic
from benchmarks.quality.schedules import SHAPES
from benchmarks.quality.training import Curve, nominal_lr, train, weight_decay
from benchmarks.quality.workloads import Session, Workload


def _run_prodigy(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Prodigy (Mishchenko & Defazio 2024): LR 1 under cosine annealing, warm-up safeguarded, as its README asks."""

    def optimizer(model: nn.Module) -> Optimizer:
        prodigy: Optimizer = Prodigy(
            model.parameters(),
            lr=1.0,
            weight_decay=weight_decay(workload.optimizer(model)),
            safeguard_warmup=True,
        )
        return prodigy

    session = workload.build(seed, optimizer)
    return train(session, n_steps, ShapedLr(SHAPES["cosine"], 1.0, n_steps))


def _run_dadaptation(workload: Workload, n_steps: int, seed: int) -> Curve:
    """D-Adaptation (Defazio & Mishchenko 2023): LR 1 times the usual schedule, in the flavour of the base optimizer."""

    def optimizer(model: nn.Module) -> Optimizer:
        base = workload.optimizer(model)
        decay = weight_decay(base)
        if isinstance(base, torch.optim.SGD):
            momentum = float(base.param_groups[0]["momentum"])
            adapted: Optimizer = DAdaptSGD(model.parameters(), lr=1.0, momentum=momentum, weight_decay=decay)
        else:
            adapted = DAdaptAdam(model.parameters(), lr=1.0, weight_decay=decay, decouple=True)
        return adapted

    session = workload.build(seed, optimizer)
    return train(session, n_steps, ShapedLr(SHAPES["linear"], 1.0, n_steps))


def _over_gradients(kind: type[DoG], workload: Workload, seed: int) -> Session:
    """A run with DoG, or one of its kind, from the distance that its paper recommends."""

    def optimizer(model: nn.Module) -> Optimizer:
        normalised = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        decay = weight_decay(workload.optimizer(model))
        return kind(model.parameters(), start=1e-4 if normalised else 1e-6, weight_decay=decay)

    return workload.build(seed, optimizer)


def _run_dog(workload: Workload, n_steps: int, seed: int) -> Curve:
    """DoG (Ivgi et al. 2023), validated and judged at the average of its iterates, as the paper asks."""
    session = _over_gradients(DoG, workload, seed)
    average = PolynomialAverage(session.model, session.optimizer)
    return train(session, n_steps, _as_it_is(n_steps), lambda _session: average.in_place())


def _run_dowg(workload: Workload, n_steps: int, seed: int) -> Curve:
    """DoWG (Khaled et al. 2023), judged at its last iterate."""
    return train(_over_gradients(DoWG, workload, seed), n_steps, _as_it_is(n_steps))


def _as_it_is(n_steps: int) -> ShapedLr:
    """A factor of 1 on the optimizer's own LR, with no schedule."""
    return ShapedLr(lambda _p: 1.0, 1.0, n_steps)


def _run_mechanic(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Mechanic (Cutkosky et al. 2023) around the base optimizer under linear decay from the LR that it carries."""
    session = workload.build(seed)
    Mechanic(session.optimizer)
    return train(session, n_steps, ShapedLr(SHAPES["linear"], nominal_lr(session), n_steps))


CONTESTANTS = by_name(
    lr_free("prodigy", _run_prodigy),
    lr_free("dadaptation", _run_dadaptation),
    lr_free("dog", _run_dog),
    lr_free("dowg", _run_dowg),
    lr_free("mechanic", _run_mechanic),
)
