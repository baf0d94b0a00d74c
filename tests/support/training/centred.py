"""A layer whose training depends on a buffer, unlike that of batch norm."""

from __future__ import annotations

import torch
from torch import nn


class Centred(nn.Module):
    """Takes a running mean of its inputs from them. Each rank's is its own until DDP sends that of rank 0."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.mean: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        centred = inputs - self.mean
        if self.training:
            self.mean = self.mean.lerp(inputs.detach().mean(0), 0.5)
        return centred
