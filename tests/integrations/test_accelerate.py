"""The tuner in loops over what Accelerate has prepared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lrpilot
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from lrpilot.errors import ConfigError
from lrpilot.integrations.accelerate import tuner as make_tuner
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.quality.local import LocalTransport
from tests.support.repository import doc_pages
from tests.support.servers.server_process import ServerProcess
from tests.support.training.scripted_directives import directive

AUTOLRS = {"tau": 30, "tau_prime": 4, "candidates": 3}


class Run:
    """A prepared training on an odd number of small batches an epoch."""

    def __init__(self, accumulation: int = 1, scaler: torch.amp.GradScaler | None = None) -> None:
        torch.manual_seed(0)
        plugin = GradientAccumulationPlugin(num_steps=accumulation, sync_with_dataloader=False)
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
        if scaler is not None:
            self.accelerator.scaler = scaler
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        targets = torch.arange(40) % 2
        inputs = torch.randn(40, 8) + targets[:, None]
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.losses: list[torch.Tensor] = []
        self.n_steps = 0

    def tuner(self, script: list[pb.Directive]) -> tuple[Tuner, ScriptedTransport]:
        transport = ScriptedTransport(script)
        total_steps = sum(directive.n_steps for directive in script)
        made = make_tuner(self.accelerator, self.model, self.optimizer, transport=transport, total_steps=total_steps)
        return made, transport

    def update(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor | None:
        """A micro-batch; the mean loss of the update that it completes."""
        inputs, targets = batch
        with self.accelerator.accumulate(self.model):
            loss = functional.cross_entropy(self.model(inputs), targets)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.losses.append(loss.detach())
        if not self.accelerator.sync_gradients:
            return None
        self.n_steps += 1
        mean = torch.stack(self.losses).mean()
        self.losses.clear()
        return mean

    def train(self, tuner: Tuner, checkpoints: Mapping[int, Path] = MappingProxyType({})) -> None:
        for batch in tuner.batches(self.loader):
            loss = self.update(batch)
            if loss is not None:
                tuner.step(loss)
                if self.n_steps in checkpoints:
                    self.accelerator.save_state(str(checkpoints[self.n_steps]))

    def validate(self) -> float:
        self.model.eval()
        inputs, targets = self.loader.dataset.tensors
        with torch.no_grad():
            return functional.cross_entropy(self.model(inputs), targets).item()

    def everything(self) -> list[torch.Tensor]:
        state = self.optimizer.state_dict()["state"]
        return [
            *self.model.state_dict().values(),
            *(tensor for each in state.values() for tensor in each.values()),
            torch.get_rng_state(),
        ]


def committed(n_steps: int, *, restore: bool = False) -> pb.Directive:
    return directive(pb.PHASE_TRAIN, 0.02, n_steps, restore=restore)


def probes() -> list[pb.Directive]:
    return [
        directive(pb.PHASE_PROBE, 0.5, 7, restore=False),
        directive(pb.PHASE_PROBE, 1e-3, 4, restore=True),
    ]


def assert_same(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_probes_leave_no_trace(accumulation: int, scaled: bool) -> None:
    """The bare loop has no tuner. A scale, here on the CPU, doubles after every third step without overflow."""

    def run() -> Run:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3) if scaled else None
        return Run(accumulation, scaler)

    bare = run()
    batches = _endless(bare.loader)
    while bare.n_steps < 17:
        bare.update(next(batches))
    expected = bare.everything()

    probed = run()
    tuner, transport = probed.tuner([*probes(), committed(5, restore=True), *probes(), committed(12, restore=True)])
    probed.train(tuner)

    assert [len(report.losses) for report in transport.reports] == [7, 4, 5, 7, 4, 12]
    assert probed.n_steps == 17 + 22
    assert_same(expected, probed.everything())
    if scaled:
        assert bare.accelerator.scaler.state_dict() == probed.accelerator.scaler.state_dict()
        assert bare.accelerator.scaler.get_scale() == 8.0 * 2**5


def test_the_size_of_logits_is_measured_of_the_modules_that_were_named() -> None:
    run = Run()
    transport = ScriptedTransport([directive(pb.PHASE_TRAIN, 0.02, 3, measures=["output_logit"])])
    largest: list[float] = []
    run.model[-1].register_forward_hook(
        lambda module, inputs, output: largest.append(output.detach().abs().max().item())
    )
    run.train(
        make_tuner(run.accelerator, run.model, run.optimizer, logits=run.model[-1], transport=transport, total_steps=3)
    )
    [measure] = transport.reports[0].measures
    assert list(measure.values) == largest


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def test_a_state_that_accelerate_saved_is_gone_on_from(tmp_path: Path, shared_server: ServerProcess) -> None:
    """The tuner is in `save_state` and `load_state`: in a probe, and in the first two stages."""

    def tuner(run: Run) -> Tuner:
        return make_tuner(
            run.accelerator,
            run.model,
            run.optimizer,
            validate=run.validate,
            server=shared_server.target,
            total_steps=160,
            lr_bounds=(1e-4, 1.0),
            policy="autolrs",
            policy_options=AUTOLRS,
        )

    whole = Run(accumulation=2)
    expected = tuner(whole)
    checkpoints = {n_steps: tmp_path / str(n_steps) for n_steps in (6, 30, 70)}
    whole.train(expected, checkpoints)
    expected.close()
    final = whole.everything()

    for n_steps, path in checkpoints.items():
        resumed = Run(accumulation=2)
        resumed_tuner = tuner(resumed)
        torch.rand(7)
        resumed.accelerator.load_state(str(path))
        resumed.train(resumed_tuner)
        resumed_tuner.close()
        assert resumed_tuner.job_id == expected.job_id
        assert resumed_tuner.schedule == expected.schedule
        assert resumed.n_steps == 160 - n_steps
        assert_same(final, resumed.everything())


def test_a_schedule_replays_without_a_server(tmp_path: Path) -> None:
    """From a file, with a scheduler that is not prepared: it steps with the optimizer."""
    run = Run(accumulation=2)
    options = {"probe_steps": 5, "refinements": 0}
    with make_tuner(
        run.accelerator,
        run.model,
        run.optimizer,
        transport=LocalTransport(),
        total_steps=500,
        lr_bounds=(1e-4, 1.0),
        policy_options=options,
    ) as tuner:
        run.train(tuner)
        assert tuner.search_steps > 0
        tuner.schedule.save(tmp_path / "schedule.json")
    expected = run.everything()

    replay = Run(accumulation=2)
    schedule = lrpilot.Schedule.load(tmp_path / "schedule.json")
    scheduler = schedule.scheduler(replay.optimizer)
    batches = _endless(replay.loader)
    while replay.n_steps < schedule.n_steps:
        if replay.update(next(batches)) is not None:
            scheduler.step()
    assert_same(expected, replay.everything())


def test_a_tuner_that_has_ended_is_not_saved_any_more(tmp_path: Path) -> None:
    """A second training with the accelerator begins at the LR that was set; a fresh process knows but one tuner."""
    run = Run()
    for _ in range(2):
        tuner = make_tuner(run.accelerator, run.model, run.optimizer, transport=LocalTransport(), total_steps=20)
        run.train(tuner)
        assert max(tuner.schedule.lrs()) == pytest.approx(0.02)
    run.accelerator.save_state(str(tmp_path))
    assert len(list(tmp_path.glob("custom_checkpoint_*"))) == 1


def test_a_state_saved_without_a_tuner_is_loaded_before_one_is_made(tmp_path: Path) -> None:
    """From the LR that its scheduler began with."""
    plain = Run()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(plain.optimizer, 0.5)
    for batch in plain.loader:
        plain.update(batch)
        scheduler.step()
    plain.accelerator.save_state(str(tmp_path))

    run = Run()
    run.accelerator.load_state(str(tmp_path))
    assert run.optimizer.param_groups[0]["lr"] < 0.001
    tuner = make_tuner(run.accelerator, run.model, run.optimizer, transport=LocalTransport(), total_steps=20)
    run.train(tuner)
    lrs = tuner.schedule.lrs()
    assert len(lrs) == 20
    assert max(lrs) == pytest.approx(0.02)
    assert lrs[-1] == pytest.approx(lrs[-2] - lrs[-1], rel=0.2)


def test_a_prepared_scheduler_is_named(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    other = run.accelerator.prepare(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    run.accelerator.prepare(torch.optim.lr_scheduler.ConstantLR(other.optimizer))
    run.tuner([committed(3)])[0].close()
    assert "has prepared" not in caplog.text
    run.accelerator.prepare(torch.optim.lr_scheduler.StepLR(run.optimizer.optimizer, 10))
    run.tuner([committed(3)])[0].close()
    assert caplog.text.count("has prepared a StepLR for the optimizer, and the LR is the tuner's") == 1


def test_accumulation_that_depends_on_the_end_of_the_data_is_refused() -> None:
    """Batches that are replayed would be accumulated otherwise."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="sync_with_dataloader=False"):
        make_tuner(accelerator, model, optimizer)


def test_the_page_runs_and_shows_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_server: ServerProcess
) -> None:
    """Its blocks, in order; the first one is the example's code."""
    assert doc_pages.first_shows("accelerate", "accelerate_digits")
    monkeypatch.setenv("LRPILOT_SERVER", shared_server.target)
    monkeypatch.chdir(tmp_path)
    doc_pages.run("accelerate")
    found = re.search(r"committed and (\d+) search steps", capsys.readouterr().out)
    assert found is not None
    assert int(found[1]) > 0
