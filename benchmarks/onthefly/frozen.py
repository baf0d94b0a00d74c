"""Fine-tuning that begins with a frozen backbone: pretrained workloads of which only the head is trained at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from benchmarks.onthefly.changes import rotated
from benchmarks.quality.training import train_step
from benchmarks.quality.workloads import WORKLOADS, Batch, Workload

_PRETRAINING_STEPS = 2000
_UPRIGHT = WORKLOADS["convnet"]


def frozen(workload: Workload) -> Workload:
    """A workload of which only the head, the last linear layer, is trained, and is known to the optimizer."""
    return replace(
        workload,
        name=f"{workload.name}, frozen",
        model=partial(_frozen_model, workload.model),
        optimizer=lambda model: workload.optimizer(_head(model)),
    )


def _head(model: nn.Module) -> nn.Module:
    *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
    return head


def _frozen_model(model: Callable[[], nn.Module]) -> nn.Module:
    built = model()
    built.requires_grad_(False)
    _head(built).requires_grad_(True)
    return built


@cache
def _upright_body() -> dict[str, Tensor]:
    """Weights of a convolutional body that was trained to classify upright digits at its optimizer's own LR."""
    session = _UPRIGHT.build(0)
    batches = session.batches()
    for _ in range(_PRETRAINING_STEPS):
        train_step(session, next(batches))
    body = session.model[:-1]  # type: ignore[index]  # the model is a sequence of layers
    return dict(body.state_dict())


def _turned_model() -> nn.Module:
    model = _UPRIGHT.model()
    model[:-1].load_state_dict(_upright_body())  # type: ignore[index]  # the model is a sequence of layers
    return model


def _turned_sample(generator: torch.Generator) -> Batch:
    return rotated(_UPRIGHT.sample(generator))


def _turned_validation() -> list[Batch]:
    return [rotated(batch) for batch in _UPRIGHT.validation()]


TURNED = replace(
    _UPRIGHT,
    name="turned",
    description="small conv net pretrained on upright MNIST digits, fine-tuned to digits turned by 90 degrees",
    model=_turned_model,
    sample=_turned_sample,
    validation=_turned_validation,
)
