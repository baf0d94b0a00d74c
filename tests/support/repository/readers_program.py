"""What is the reader's own on pages that show a few lines of use: model, optimizer, data, loss and evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def names() -> dict[str, Any]:
    """The names that such pages use, each time anew."""
    torch.manual_seed(0)
    loader = [(x, x.sum(dim=1, keepdim=True)) for x in torch.randn(40, 16, 8)]
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    def compute_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float(compute_loss(model, loader[0]))

    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "train_loader": loader,
        "compute_loss": compute_loss,
        "evaluate": evaluate,
    }
