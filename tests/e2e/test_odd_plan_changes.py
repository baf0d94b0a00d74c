"""The plan of a run changes in odd places: in a search, twice, after the end, and while the server is away."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrpilot.errors import ConfigError, UnavailableError
from lrpilot.schedule.from_proto import schedule_from_proto
from lrpilot.schedule.schedule import Schedule
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.limits import MAX_STEPS
from torch import nn

from tests.support.jobs.kept_jobs import KeptJobs
from tuner_server.core.job.machine import Status


class Away(KeptJobs):
    """A server that can be switched off."""

    away = False

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        if self.away:
            raise UnavailableError("server: away", "UNAVAILABLE")
        return super().advance(request, timeout_s)


class Run:
    """A linear regression by AdamW."""

    def __init__(self, total_steps: int | None, **options: Any) -> None:
        torch.manual_seed(0)
        self.data = [(x, x.sum(1, keepdim=True).tanh()) for x in torch.randn(40, 16, 8)]
        self.model = nn.Linear(8, 1)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.optimizer = optimizer
        self.jobs = Away()
        self.tuner = Tuner(
            self.model,
            optimizer,
            transport=self.jobs,
            lr_bounds=(1e-4, 1e-1),
            total_steps=total_steps,
            timeout_s=0.2,
            **options,
        )

    def train(self, until: Callable[[], bool] = lambda: False, data: Any = None) -> list[float]:
        """The LRs of the steps until something is so, or of all that are left."""
        lrs = []
        for x, y in self.tuner.batches(self.data if data is None else data):
            lrs.append(float(self.optimizer.param_groups[0]["lr"]))
            loss = nn.functional.mse_loss(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            self.optimizer.step()
            self.tuner.step(loss)
            if until():
                break
        return lrs

    def commit(self, step: int) -> None:
        """Trains until so many steps are committed."""
        self.train(lambda: self.tuner.committed_step >= step and not self.tuner.searching)

    def weights(self) -> list[torch.Tensor]:
        return [weight.detach().clone() for weight in self.model.parameters()]

    def stored(self) -> Schedule:
        """The schedule as the server has it."""
        request = pb.GetScheduleRequest(job_id=self.tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
        return schedule_from_proto(self.jobs.get_schedule(request, 5.0), Schedule)


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(itertools.starmap(torch.equal, zip(some, others, strict=True)))


@pytest.mark.parametrize("total_steps", [600, None])
def test_an_annealing_asked_for_in_a_search_can_be_extended_there(total_steps: int | None) -> None:
    run = Run(total_steps)
    assert run.tuner.searching
    if total_steps is None:
        with pytest.raises(ConfigError, match="no end"):
            run.tuner.extend(20)
    run.tuner.anneal(50)
    run.tuner.extend(20)
    run.tuner.extend(5)
    run.train()
    assert run.tuner.finished
    assert run.tuner.committed_step == 75


def test_an_annealing_in_an_annealing_is_undone_to_the_plan_before_both() -> None:
    run = Run(None)
    run.commit(60)
    run.tuner.anneal(30)
    run.commit(70)
    weights = run.weights()
    run.tuner.anneal(20)
    run.train()
    run.tuner.undo_annealing()
    assert equal(run.weights(), weights)
    assert run.tuner.remaining_steps is None
    assert run.jobs.state.total_steps is None
    run.commit(80)


@pytest.mark.parametrize("policy", ["budget", "open_ended"])
def test_a_run_that_is_extended_by_little_after_its_end_comes_down_again(policy: str) -> None:
    run = Run(300, policy=policy)
    run.train()
    run.tuner.extend(50)
    lrs = run.train()
    assert len(lrs) == 50
    assert lrs[0] < max(lrs)
    assert lrs[-1] < 0.1 * max(lrs)


@pytest.mark.parametrize("back_after", [0, 30, None])
@pytest.mark.parametrize("policy", ["budget", "open_ended"])
def test_a_run_that_is_extended_after_its_end_rises_without_a_server(policy: str, back_after: int | None) -> None:
    run = Run(300, policy=policy)
    run.commit(200)
    run.jobs.away = True
    run.tuner.extend(10)
    run.train()
    if back_after == 0:
        run.tuner._session._look_again = 0.0  # type: ignore[union-attr]  # it looks for the server at once
        run.jobs.away = False
    run.tuner.extend(100)
    if back_after:
        first = run.train(lambda: run.tuner.committed_step >= 310 + back_after)
        run.tuner._session._look_again = 0.0  # type: ignore[union-attr]
        run.jobs.away = False
        lrs = first + run.train()
    else:
        lrs = run.train()
    assert len(lrs) == 100
    assert 0 < lrs[0] < max(lrs)
    assert lrs[-1] < 0.1 * max(lrs)
    if back_after is not None:
        assert run.jobs.state.status is Status.FINISHED
        assert run.stored().segments == run.tuner.schedule.segments


@pytest.mark.parametrize("total_steps", [300, None])
def test_an_annealing_that_began_without_a_server_can_be_undone(total_steps: int | None) -> None:
    run = Run(total_steps)
    run.commit(100)
    weights = run.weights()
    run.jobs.away = True
    run.tuner.anneal(30)
    run.train()
    assert run.tuner.finished
    run.tuner.undo_annealing()
    assert equal(run.weights(), weights)
    assert run.tuner.remaining_steps == (None if total_steps is None else 170)
    assert [replan.kind for replan in run.tuner.schedule.replans] == ["anneal", "undo_annealing"]


def test_a_run_whose_tuning_has_failed_rises_when_it_is_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(300)
    run.train()

    def fail(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(run.tuner._session, "answer", fail)
    for _ in range(2):
        run.tuner.extend(100)
        lrs = run.train()
        assert len(lrs) == 100
        assert 0 < lrs[0] < max(lrs)
        assert lrs[-1] < 0.1 * max(lrs)


def test_every_change_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lrpilot")
    run = Run(300)
    run.commit(100)
    caplog.clear()
    changes: list[tuple[Callable[[], None], str]] = [
        (lambda: run.tuner.extend(10), "the end of the run has moved"),
        (lambda: run.tuner.replan("new\0 \ud800 data"), "(new? ? data)"),
        (lambda: run.tuner.anneal(20), "an annealing was asked for"),
        (lambda: run.tuner.undo_annealing(), "the annealing is undone"),
    ]
    for change, said in changes:
        change()
        run.train(lambda: True)
        assert sum(said in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("searched", [5, 22, 30])  # in the first probe, at its end, and in the second one
def test_another_loader_in_the_middle_of_a_search_is_no_trace_of_a_probe(searched: int) -> None:
    run = Run(600)
    run.train(lambda: run.tuner.search_steps >= searched)
    assert run.tuner.searching
    run.tuner.replan("new data")
    run.train(data=[(x, -y) for x, y in reversed(run.data)])
    schedule = run.tuner.schedule
    assert run.tuner.finished
    assert schedule.unrepeatable == ""
    assert len(schedule.probes) > 3


@pytest.mark.parametrize("what", ["extend", "anneal"])
def test_a_run_that_would_be_too_long_is_refused(what: str) -> None:
    run = Run(300)
    run.commit(10)
    with pytest.raises(ConfigError, match=f"steps: {MAX_STEPS} more than .* at most {MAX_STEPS}"):
        getattr(run.tuner, what)(MAX_STEPS)
    run.train()
    assert run.tuner.committed_step == 300
