"""A run of milliseconds whose plan changes on the way, on jobs that outlive it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lrpilot.transport.base import Transport
from lrpilot.tuner import Tuner
from torch import nn

TOTAL = 600
OPTIONS: dict[str, Any] = {"probe_steps": 5, "refinements": 0, "max_candidates": 4}
LONGEST = 20_000
"""Steps after which a test's run is taken to have no end."""


class PlannedRun:
    """A linear regression by momentum SGD."""

    def __init__(self, jobs: Transport, total_steps: int | None = TOTAL, **options: Any) -> None:
        torch.manual_seed(0)
        self.data = [(x, x.sum(1, keepdim=True).tanh()) for x in torch.randn(30, 8, 4)]
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        defaults: dict[str, Any] = {"lr_bounds": (1e-3, 0.3), "timeout_s": 1.0, "policy_options": OPTIONS}
        if total_steps is None:
            defaults.pop("policy_options")
        self.tuner = Tuner(
            self.model, self.optimizer, transport=jobs, total_steps=total_steps, **{**defaults, **options}
        )
        self.lrs: list[float] = []
        self.n_steps = 0

    def train(self, n_steps: int | None = None) -> list[float]:
        """The LRs of so many steps, or of all that are left."""
        made: list[float] = []
        if n_steps == 0:
            return made
        for x, y in self.tuner.batches(self.data):
            made.append(float(self.optimizer.param_groups[0]["lr"]))
            loss = nn.functional.mse_loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            self.tuner.step(loss)
            if len(made) == n_steps:
                break
            assert len(made) < LONGEST
        self.lrs += made
        self.n_steps += len(made)
        return made

    def train_to_commit(self) -> None:
        """Trains until the search is over, and some steps more."""
        while self.tuner.searching:
            self.train(1)
        self.train(20)

    def everything(self) -> dict[str, Any]:
        """The whole state of the training: weights and optimizer."""
        return copy.deepcopy({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def checkpoint(self) -> dict[str, Any]:
        """All that a fresh process needs."""
        return self.everything() | {"tuner": copy.deepcopy(self.tuner.state_dict()), "n_steps": self.n_steps}

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from there."""
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.tuner.load_state_dict(checkpoint["tuner"])
        self.n_steps = checkpoint["n_steps"]
