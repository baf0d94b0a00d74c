"""A run that ends by time: through the client, with real waits. Limits are generous, as machines are shared."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
import torch
from lrpilot import Tuner
from lrpilot.errors import ConfigError, UnavailableError
from lrpilot.transport.base import Transport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from benchmarks.quality.local import LocalTransport
from tuner_server.core.job.state import Status

TOTAL_S = 4.0
STEP_S = 0.002


class Run:
    """A linear regression whose steps take a while."""

    def __init__(self, transport: Transport, **options: Any) -> None:
        torch.manual_seed(0)
        self.data = [(x, x.sum(1, keepdim=True).tanh()) for x in torch.randn(40, 16, 8)]
        self.model = nn.Linear(8, 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        options = {"total_time_s": TOTAL_S, "lr_bounds": (1e-4, 1e-1), **options}
        self.tuner = Tuner(self.model, self.optimizer, transport=transport, **options)

    def train(self, slow_after_s: float | None = None, stop_after: int | None = None) -> list[float]:
        """The LRs of the steps that stay; later ones take three times as long."""
        began, lrs = time.monotonic(), []
        for n_steps, (x, y) in enumerate(self.tuner.batches(self.data), start=1):
            slow = slow_after_s is not None and time.monotonic() - began > slow_after_s
            time.sleep(3 * STEP_S if slow else STEP_S)
            if not self.tuner.searching:
                lrs.append(float(self.optimizer.param_groups[0]["lr"]))
            loss = nn.functional.mse_loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            self.tuner.step(loss)
            if n_steps == stop_after:
                break
        return lrs


class Away(LocalTransport):
    """Its server is away: from the beginning, or from the time on when it is switched off."""

    def __init__(self, *, away: bool) -> None:
        super().__init__()
        self.away = away

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        self._look()
        return super().create_job(request, timeout_s)

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._look()
        return super().advance(request, timeout_s)

    def _look(self) -> None:
        if self.away:
            raise UnavailableError("it is away", "UNAVAILABLE")


@pytest.mark.parametrize("slow_after_s", [None, 0.5 * TOTAL_S])
def test_the_lr_is_at_zero_when_the_time_is_over(slow_after_s: float | None) -> None:
    transport = LocalTransport()
    run = Run(transport)
    began = time.monotonic()
    lrs = run.train(slow_after_s)
    assert 0.75 * TOTAL_S <= time.monotonic() - began <= 1.5 * TOTAL_S
    assert run.tuner.finished
    assert transport.state.status is Status.FINISHED
    assert run.tuner.remaining_steps == 0
    assert run.tuner.committed_step == len(lrs) == transport.state.committed_steps
    assert run.tuner.search_steps == transport.state.search_steps > 0
    assert lrs[-1] <= 0.05 * max(lrs)
    assert run.tuner.schedule.total_steps == run.tuner.committed_step + run.tuner.search_steps


def test_a_run_whose_time_is_over_can_go_on() -> None:
    run = Run(LocalTransport(), total_time_s=1.0)
    run.train()
    done = run.tuner.committed_step
    run.tuner.extend(50)
    assert len(run.train()) == 50
    assert run.tuner.committed_step == done + 50
    assert run.tuner.finished


@pytest.mark.parametrize("away", [True, False], ids=["from the start", "later on"])
def test_without_a_server_the_run_ends_by_time_all_the_same(away: bool, caplog: pytest.LogCaptureFixture) -> None:
    transport = Away(away=away)
    with caplog.at_level(logging.ERROR):
        run = Run(transport, timeout_s=0.1)
        began = time.monotonic()
        if not away:
            run.train(stop_after=400)
            transport.away = True
        lrs = run.train()
    # Neither at once nor for ever: how fast steps are is the machine's business, which may be busy for a while.
    assert 0.1 * TOTAL_S <= time.monotonic() - began <= 10.0 * TOTAL_S
    assert run.tuner.finished
    assert lrs[-1] <= 0.05 * max(lrs)


def test_a_checkpoint_goes_on_with_the_same_time() -> None:
    first = Run(LocalTransport())
    first.train(stop_after=10)
    with pytest.raises(ConfigError, match=r"total_time_s: 9, but the run of the checkpoint was begun with 4"):
        Run(LocalTransport(), total_time_s=9.0).tuner.load_state_dict(first.tuner.state_dict())
