"""The contestants that are schedules: fixed shapes, rules that watch the validation loss, the LR finder."""

from __future__ import annotations

from functools import partial

from benchmarks.quality.adalrs import run_adalrs
from benchmarks.quality.averages import ExponentialAverage
from benchmarks.quality.contestant import by_name, lr_free, tuned
from benchmarks.quality.greedy_lr import DEFAULTS, GreedyLr, GreedySettings
from benchmarks.quality.lr_finder import run_lr_finder
from benchmarks.quality.lr_rules import OneCycle, PlateauLr, ShapedLr
from benchmarks.quality.schedules import SHAPES, Shape, with_floor
from benchmarks.quality.training import Curve, nominal_lr, train
from benchmarks.quality.workloads import Workload
from tuner_server.core.stages.ending import FLOOR, MEMORY_SHARE


def _run_shape(shape: Shape, workload: Workload, lr: float, n_steps: int, seed: int) -> Curve:
    return train(workload.build(seed), n_steps, ShapedLr(shape, lr, n_steps))


def _run_averaged(workload: Workload, lr: float, n_steps: int, seed: int) -> Curve:
    """Linear decay to a floor, and an average of the weights: what a sweep gains from the ending of policy `budget`."""
    session = workload.build(seed)
    average = ExponentialAverage(session.model, session.optimizer, MEMORY_SHARE * n_steps)
    shape = with_floor(SHAPES["linear"], FLOOR)
    return train(session, n_steps, ShapedLr(shape, lr, n_steps), lambda _session: average.in_place())


def _run_plateau(workload: Workload, lr: float, n_steps: int, seed: int) -> Curve:
    return train(workload.build(seed), n_steps, PlateauLr(lr, n_steps))


def _run_one_cycle(workload: Workload, lr: float, n_steps: int, seed: int) -> Curve:
    session = workload.build(seed)
    return train(session, n_steps, OneCycle(session.optimizer, lr, n_steps))


def _run_users_lr(workload: Workload, n_steps: int, seed: int) -> Curve:
    """Linear decay from the LR that the workload's optimizer carries."""
    session = workload.build(seed)
    return train(session, n_steps, ShapedLr(SHAPES["linear"], nominal_lr(session), n_steps))


def _run_greedy_lr(settings: GreedySettings, workload: Workload, n_steps: int, seed: int) -> Curve:
    """GreedyLR from the LR that the workload's optimizer carries."""
    session = workload.build(seed)
    return train(session, n_steps, GreedyLr(nominal_lr(session), settings))


# In the order in which the grid runs them.
CONTESTANTS = by_name(
    *(tuned(name, partial(_run_shape, shape)) for name, shape in SHAPES.items()),
    tuned("linear, averaged", _run_averaged),
    tuned("plateau", _run_plateau),
    tuned("one_cycle", _run_one_cycle),
    lr_free("linear, user's LR", _run_users_lr),
    lr_free("greedy_lr", partial(_run_greedy_lr, DEFAULTS)),
    lr_free("greedy_lr, no min_lr", partial(_run_greedy_lr, GreedySettings(min_lr=0.0))),
    lr_free("lr_finder", run_lr_finder),
    lr_free("adalrs", run_adalrs),
)
