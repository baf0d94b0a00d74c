"""Real loggers on real runs: what they show, and that no step goes backwards on its axis."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.loggers.metrics import SEARCH_STEP, STEP, MetricLogger, Point
from lrpilot.run.observer import Observer
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.servers.server_process import ServerProcess

pytestmark = [
    # TensorBoard 2.21 builds on setuptools' old resource API, MLflow on pydantic's old validators.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
]
TOTAL = 500
"""No shorter run has a search."""


class Memory(MetricLogger):
    """Keeps the points."""

    def __init__(self, every: int = 10) -> None:
        super().__init__(every)
        self.points: list[Point] = []

    def write(self, points: list[Point]) -> None:
        self.points += points

    def series(self, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.values[name]) for point in self.points if name in point.values]


def train(observer: Observer, nan_at: int | None = None, **arguments: Any) -> lrpilot.Tuner:
    """A quadratic, a few milliseconds long; step `nan_at` has no loss."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.ones(8))
    optimizer = torch.optim.SGD([parameter], lr=0.05)
    tuner = lrpilot.Tuner(
        nn.ParameterList([parameter]),
        optimizer,
        lr_bounds=(1e-3, 1.0),
        validate=lambda: parameter.square().sum().item(),
        observers=[observer],
        **{"total_steps": TOTAL} | arguments,
    )
    n_steps = 0
    while not tuner.finished:
        loss = parameter.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        n_steps += 1
        tuner.step(loss.detach() * (float("nan") if n_steps == nan_at else 1.0))
    tuner.close()
    return tuner


def tuned(server: ServerProcess, observer: Observer) -> lrpilot.Tuner:
    options = {"probe_steps": 6, "refinements": 1, "max_candidates": 4}
    return train(observer, server=server.target, policy="budget", policy_options=options)


def test_both_axes_have_every_directive_and_the_forecasts(shared_server: ServerProcess) -> None:
    memory = Memory()
    tuner = tuned(shared_server, memory)
    lrs = memory.series("lrpilot/lr")
    assert lrs[0][0] == 0
    assert lrs[-1][0] == tuner.committed_step - 1
    assert memory.series("lrpilot/loss")[-1][1] == pytest.approx(tuner.schedule.losses[-1])
    assert memory.series("lrpilot/validation_loss")
    probes = memory.series("lrpilot/probe/lr")
    assert probes[-1][0] == tuner.search_steps - 1
    forecasts = memory.series("lrpilot/candidate/forecast")
    ends = itertools.accumulate(probe.n_steps for probe in tuner.schedule.probes)
    judged = [end - 1 for end, probe in zip(ends, tuner.schedule.probes, strict=True) if not probe.diverged]
    assert [step for step, _ in forecasts] == judged
    # Policy budget judges by those at the ends; the one before the first step says what was gained.
    (before, _), *ends_of_probes = memory.series("lrpilot/probe/validation_loss")
    assert before == 0
    assert {step: pytest.approx(loss) for step, loss in forecasts} == dict(ends_of_probes)


@pytest.mark.parametrize(("nan_at", "bars"), [(15, []), (None, [pb.Bar(from_step=0, loss=-1.0)])])
def test_no_step_goes_backwards_also_when_committed_steps_are_taken_back(
    nan_at: int | None, bars: list[pb.Bar]
) -> None:
    """After a divergence, and after a broken promise."""
    lr, n_steps = 0.1, 40
    profile = pb.Profile(shape="constant", start_lr=lr, end_lr=lr, length=n_steps)
    first = pb.Directive(phase=pb.PHASE_TRAIN, n_steps=n_steps, profile=profile, snapshot=True, report_every=10)
    rest = pb.Directive(phase=pb.PHASE_TRAIN, n_steps=30, profile=profile, report_every=10, promise=bars)
    lower = pb.Profile(shape="constant", start_lr=lr / 2, end_lr=lr / 2, length=n_steps)
    again = pb.Directive(phase=pb.PHASE_TRAIN, n_steps=n_steps, profile=lower, restore=True, report_every=40)
    memory = Memory(every=1)
    total = n_steps + (16 if nan_at else 20)  # a divergence is seen at the next look
    tuner = train(memory, nan_at=nan_at, transport=ScriptedTransport([first, rest, again]), total_steps=total)
    assert (tuner.committed_step, tuner.search_steps) == (n_steps, total - n_steps)
    steps = [point.step for point in memory.points if point.axis == STEP]
    assert steps == sorted(set(steps))
    assert steps == list(range(steps[-1] + 1))
    assert all(point.axis == STEP for point in memory.points)
    # Of what was rolled back, the part that had been logged by then is all that there is.
    assert memory.series("lrpilot/lr") == [(step, lr if step < 10 else lr / 2) for step in steps]


def test_points_are_thinned_but_the_ends_stay() -> None:
    profile = pb.Profile(shape="constant", start_lr=0.1, end_lr=0.1, length=45)
    directive = pb.Directive(phase=pb.PHASE_PROBE, n_steps=45, profile=profile, snapshot=True)
    memory = Memory(every=20)
    train(memory, transport=ScriptedTransport([directive]), total_steps=45)
    assert [point.step for point in memory.points] == [0, 20, 40, 44]
    assert {point.axis for point in memory.points} == {SEARCH_STEP}


def test_an_observer_that_raises_harms_nothing(shared_server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Observer):
        def reported(self, *_: Any) -> None:
            raise OSError("disk full")

    caplog.set_level(logging.WARNING, "lrpilot")
    tuner = tuned(shared_server, Broken())
    assert tuner.committed_step + tuner.search_steps == TOTAL
    assert any("Broken raised" in record.message for record in caplog.records)


def test_tensorboard(shared_server: ServerProcess, tmp_path: Path) -> None:
    from lrpilot.loggers.tensorboard import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        tuner = tuned(shared_server, TensorBoardLogger(writer))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    committed = [event.step for event in events.Scalars("lrpilot/lr")]
    assert committed == sorted(committed)
    assert committed[-1] == tuner.committed_step - 1
    assert [event.step for event in events.Scalars("lrpilot/probe/loss")][-1] == tuner.search_steps - 1
    assert events.Scalars("lrpilot/candidate/forecast")


def test_mlflow(shared_server: ServerProcess, tmp_path: Path) -> None:
    import mlflow
    from lrpilot.loggers.mlflow import MlflowLogger

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with mlflow.start_run() as run:
        tuner = tuned(shared_server, MlflowLogger())
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "lrpilot/lr")
    assert max(metric.step for metric in history) == tuner.committed_step - 1
    probes = client.get_metric_history(run.info.run_id, "lrpilot/probe/lr")
    assert max(metric.step for metric in probes) == tuner.search_steps - 1


class Rows:
    """What a logger uses of a W&B run: metrics that are defined, and rows."""

    def __init__(self) -> None:
        self.axes: dict[str, str | None] = {}
        self.rows: list[dict[str, float]] = []

    def define_metric(self, name: str, step_metric: str | None = None, hidden: bool = False) -> None:
        self.axes[name] = step_metric

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)


def test_wandb_gets_a_row_for_every_point_with_its_axis(shared_server: ServerProcess) -> None:
    from lrpilot.loggers.wandb import WandbLogger

    run, memory = Rows(), Memory()
    tuned(shared_server, WandbLogger(run))
    tuned(shared_server, memory)
    assert run.axes["lrpilot/*"] == STEP
    assert run.axes["lrpilot/probe/*"] == run.axes["lrpilot/candidate/*"] == SEARCH_STEP
    assert run.rows == [{point.axis: point.step, **point.values} for point in memory.points]


@pytest.mark.slow
def test_wandb_offline(shared_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from lrpilot.loggers.wandb import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=str(tmp_path), project="lrpilot")
    tuner = tuned(shared_server, WandbLogger(run))
    summary = dict(run.summary)
    run.finish()
    assert summary["lrpilot/step"] == tuner.committed_step - 1
    assert summary["lrpilot/search_step"] == tuner.search_steps - 1
    assert summary["lrpilot/lr"] > 0
