"""The network that every contestant trains, and how it is judged."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tuner_server.demo.data import Images

MOMENTUM = 0.9
CHANNELS = (8, 16)


def build(seed: int) -> nn.Module:
    """A convolutional network with BatchNorm for images of 28x28, small enough for 4,000 steps in half a minute."""
    torch.manual_seed(seed)
    first, second = CHANNELS
    return nn.Sequential(
        nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * 7 * 7, 10),
    )


@torch.no_grad()
def evaluate(network: nn.Module, data: Images) -> tuple[float, float]:
    """Mean cross-entropy and accuracy, in evaluation mode; the mode is restored."""
    was_training = network.training
    network.eval()
    logits = network(data.images)
    network.train(was_training)
    loss = functional.cross_entropy(logits, data.labels).item()
    accuracy = (logits.argmax(1) == data.labels).double().mean().item()
    return loss, accuracy
