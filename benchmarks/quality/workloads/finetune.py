"""Fine-tuning: a layer-normalised perceptron that knows MNIST learns the noisy UCI digits, AdamW.

The pretrained weights are the same for all seeds, as a published checkpoint would be; the seed draws a new head.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.quality.datasets import images
from benchmarks.quality.workloads.base import Batch, Workload, classification_loss, fixed_draws, half_decades

VERSION = 1
_BATCH_SIZE = 32
_WIDTH = 64
_MAX_SHIFT = 1
_NOISE = 0.25

_PRETRAINING_STEPS = 2000
_PRETRAINING_LR = 3e-3


def _layer(n_inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_inputs, _WIDTH), nn.LayerNorm(_WIDTH), nn.GELU())


def _body() -> nn.Module:
    return nn.Sequential(nn.Flatten(), _layer(64), _layer(_WIDTH), _layer(_WIDTH))


@cache
def _pretrained_body() -> dict[str, Tensor]:
    """Weights of a body that was trained to classify noisy MNIST digits at a constant LR."""
    train, _ = images.small_mnist()
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body, head = _body(), nn.Linear(_WIDTH, 10)
    model = nn.Sequential(body, head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PRETRAINING_LR, fused=True)
    for _ in range(_PRETRAINING_STEPS):
        loss = classification_loss(model, train.draw(_BATCH_SIZE, generator, max_shift=_MAX_SHIFT, noise=_NOISE))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
    return body.state_dict()


def _model() -> nn.Module:
    body = _body()
    body.load_state_dict(_pretrained_body())
    return nn.Sequential(body, nn.Linear(_WIDTH, 10))


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)


def _sample(generator: torch.Generator) -> Batch:
    train, _ = images.digits()
    return train.draw(_BATCH_SIZE, generator, max_shift=_MAX_SHIFT, noise=_NOISE)


def _validation() -> list[Batch]:
    _, held_out = images.digits()
    return fixed_draws(lambda generator: held_out.draw(2000, generator, max_shift=_MAX_SHIFT, noise=_NOISE), 1)


WORKLOAD = Workload(
    name="finetune",
    version=VERSION,
    description="perceptron pretrained on MNIST, fine-tuned to noisy 8x8 digits, AdamW",
    lr_range=(1e-5, 1e-1),
    lr_grid=half_decades(1e-4, 7),
    model=_model,
    optimizer=_optimizer,
    sample=_sample,
    loss_function=classification_loss,
    validation=_validation,
)
