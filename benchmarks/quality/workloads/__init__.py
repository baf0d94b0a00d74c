"""The registry of workloads, by name."""

from __future__ import annotations

from benchmarks.quality.workloads import (
    chartransformer,
    convnet,
    finetune,
    gru,
    inpainting,
    mlp,
    resnet,
)
from benchmarks.quality.workloads.base import Batch, OptimizerFactory, Session, Workload

WORKLOADS: dict[str, Workload] = {
    module.WORKLOAD.name: module.WORKLOAD
    for module in (convnet, chartransformer, mlp, resnet, gru, inpainting, finetune)
}

__all__ = ["WORKLOADS", "Batch", "OptimizerFactory", "Session", "Workload"]
