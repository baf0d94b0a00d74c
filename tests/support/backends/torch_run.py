"""A small run in PyTorch."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import torch
from lrpilot.backends.torch.backend import TorchBackend
from torch import nn

from tests.support.backends.small_run import N_FEATURES, WIDTH, SmallRun, Validate


class TorchRun(SmallRun):
    """Batch statistics, dropout, SGD with momentum over two groups."""

    base_lrs = (0.02, 0.06)
    follows_data = True

    def __init__(self, validate: Validate | None = None, width: int = WIDTH) -> None:
        torch.manual_seed(0)
        first, last = nn.Linear(N_FEATURES, width), nn.Linear(width, 1)
        self.model = nn.Sequential(first, nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.2), last)
        groups: list[dict[str, Any]] = [
            {"params": first.parameters()},
            {"params": last.parameters(), "lr": self.base_lrs[1]},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=self.base_lrs[0], momentum=0.9)
        self.backend = TorchBackend(
            self.model, [self.optimizer], None if validate is None else lambda: validate(self), {}
        )

    def update(self, batch: np.ndarray[Any, Any]) -> Any:
        self.optimizer.zero_grad()
        loss = self._loss(torch.from_numpy(batch))
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def bits(self) -> list[bytes]:
        state = self.optimizer.state
        tensors = [
            *self.model.state_dict().values(),
            *(state[p]["momentum_buffer"] for p in self.model.parameters() if "momentum_buffer" in state.get(p, {})),
        ]
        modes = bytes(module.training for module in self.model.modules())
        return [modes, *(tensor.numpy().tobytes() for tensor in tensors)]

    def evaluate(self) -> float:
        self.model.eval()
        with torch.no_grad():
            return self._loss(torch.ones(3, N_FEATURES) * torch.rand(3, 1)).item()

    def scalar(self, value: float) -> Any:
        return torch.tensor(value, dtype=torch.float64)

    def array(self, n: int) -> Any:
        return torch.zeros(n)

    def save(self) -> Any:
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    def load(self, saved: Any) -> None:
        model, optimizer = copy.deepcopy(saved)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)

    def through_a_file(self, state: Any) -> Any:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = (self.model(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss
