"""A run of milliseconds against a script, for tests of what may befall it."""

from __future__ import annotations

from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.transport.base import Transport
from torch import nn

from tests.support.training.scripted_directives import probe, training

TOTAL = 120
SCRIPT = [
    probe(0.1, 8, first=True, validate_at=[8]),
    probe(0.3, 8, validate_at=[8]),
    training(0.1, 40, restore=True),
    training(0.05, 30),
    training(0.05, 34),
]


class Run:
    """A noisy quadratic."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.parameter = nn.Parameter(torch.ones(8))
        self.optimizer = torch.optim.SGD([self.parameter], lr=0.05)
        self.steps = 0
        self.lrs: list[float] = []

    def tuner(self, transport: Transport, **arguments: Any) -> lrpilot.Tuner:
        return lrpilot.Tuner(
            nn.ParameterList([self.parameter]),
            self.optimizer,
            **{"transport": transport, "total_steps": TOTAL, "validate": lambda: 1.0, **arguments},
        )

    def step(self, tuner: lrpilot.Tuner, factor: float = 1.0) -> None:
        loss = factor * (self.parameter**2).sum() + 0.1 * torch.rand(())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.lrs.append(tuner.lr)
        self.optimizer.step()
        self.steps += 1
        tuner.step(loss)

    def train(self, tuner: lrpilot.Tuner) -> None:
        while not tuner.finished:
            self.step(tuner)
            assert self.steps <= TOTAL
            if self.steps in (9, 50):
                tuner.state_dict()


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def assert_annealed(run: Run, tuner: lrpilot.Tuner) -> None:
    """To the end of the budget, at finite weights; and the tuner can still be asked and closed."""
    assert run.steps == TOTAL == tuner.committed_step + tuner.search_steps
    assert run.lrs[-1] < 0.1 * max(run.lrs)
    assert torch.isfinite(run.parameter).all()
    tuner.state_dict()
    tuner.close()
    tuner.close()
    assert tuner.finished
