"""The registry of workloads, by name: the usual ones, then those on which tuners go wrong."""

from __future__ import annotations

from benchmarks.quality.workloads import (
    chartransformer,
    convnet,
    density,
    dying,
    finetune,
    gru,
    inpainting,
    lostpretraining,
    mlp,
    noisylabels,
    resnet,
    smallvalidation,
    tinybatch,
)
from benchmarks.quality.workloads.base import Batch, OptimizerFactory, Session, Workload

_USUAL = (convnet, chartransformer, mlp, resnet, gru, inpainting, finetune)
_HARD = (dying, noisylabels, tinybatch, smallvalidation, lostpretraining, density)

USUAL: tuple[str, ...] = tuple(module.WORKLOAD.name for module in _USUAL)
HARD: tuple[str, ...] = tuple(module.WORKLOAD.name for module in _HARD)
WORKLOADS: dict[str, Workload] = {module.WORKLOAD.name: module.WORKLOAD for module in (*_USUAL, *_HARD)}

__all__ = ["HARD", "USUAL", "WORKLOADS", "Batch", "OptimizerFactory", "Session", "Workload"]
