"""Training loops as people have them: mixed precision, accumulation, optimizers with modes, schedulers of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.training.scripted_directives import directive


def training(n_steps: int, *, restore: bool = False, **fields: Any) -> pb.Directive:
    return directive(pb.PHASE_TRAIN, 0.02, n_steps, restore=restore, **fields)


PROBES = [
    directive(pb.PHASE_PROBE, 0.5, 6, restore=False, validate_at=[6]),
    directive(pb.PHASE_PROBE, 0.1, 6, restore=True, validate_at=[6]),
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(n: int = 24) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 4, generator=generator) for _ in range(n)]


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
    return loss


def backward(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated


def step(tuner: Tuner, model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    """One update, in the usual way."""
    loss = loss_of(model, batch)
    backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    tuner.step(loss)


@pytest.mark.parametrize("fused", [False, True])
def test_updates_that_a_scaler_skips_are_not_counted(fused: bool) -> None:
    """Every fifth batch overflows. The tuner asks for ten steps and gets ten updates; the scaler is rolled back too."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    script = [directive(pb.PHASE_PROBE, 0.001, 5, restore=False), training(10, restore=True)]
    transport = ScriptedTransport(script)
    tuner = Tuner(model, optimizer, transport=transport, total_steps=15, register={"scaler": scaler})
    data = [batch * 3e38 if i % 5 == 2 else batch for i, batch in enumerate(batches())]
    n_calls = n_updates = 0
    scales = []
    for batch in tuner.batches(data):
        scales.append((tuner.phase, scaler.get_scale()))
        loss = loss_of(model, batch)
        backward(scaler.scale(loss))
        before = copy.deepcopy(model.state_dict())
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        n_calls += 1
        n_updates += any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
        tuner.step(loss)
    assert n_updates == 15
    assert n_calls > 15
    assert [len(report.losses) for report in transport.reports] == [5, 10]
    assert all(report.outcome == pb.OUTCOME_COMPLETED for report in transport.reports)
    assert next(scale for phase, scale in scales if phase == "train") == 2.0**10
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_step_is_an_update_not_a_micro_batch() -> None:
    """Four micro-batches an update; the probes replay all of theirs, and leave no trace."""
    finals = []
    for script in ([training(9)], [*PROBES, training(9, restore=True)]):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        total = sum(each.n_steps for each in script)
        tuner = Tuner(model, optimizer, transport=ScriptedTransport(script), total_steps=total)
        sum_of_losses = torch.zeros(())
        for i, batch in enumerate(tuner.batches(batches())):
            loss = loss_of(model, batch) / 4
            backward(loss)
            sum_of_losses += loss.detach()
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
                tuner.step(sum_of_losses)
                sum_of_losses = torch.zeros(())
        finals.append((model.state_dict(), i + 1))
    assert finals[0][1] == 4 * 9
    assert finals[1][1] == 4 * (9 + 12)
    for name, value in finals[0][0].items():
        assert torch.equal(value, finals[1][0][name])


class TestScheduleFree:
    """An optimizer that trains at other weights than it evaluates."""

    def run(self, script: list[pb.Directive], *, validates: bool = True) -> tuple[nn.Module, Any, list[float]]:
        model = network()
        optimizer = pytest.importorskip("schedulefree").AdamWScheduleFree(model.parameters(), lr=0.02)
        optimizer.train()
        seen: list[float] = []
        held_out = batches()[0]

        def validate() -> float:
            assert not optimizer.param_groups[0]["train_mode"]
            with torch.no_grad():
                seen.append(loss_of(model, held_out).item())
            return seen[-1]

        tuner = Tuner(
            model,
            optimizer,
            transport=ScriptedTransport(script),
            total_steps=sum(each.n_steps for each in script),
            validate=validate if validates else None,
        )
        for batch in tuner.batches(batches()):
            step(tuner, model, optimizer, batch)
        assert optimizer.param_groups[0]["train_mode"]
        return model, optimizer, seen

    def test_probes_leave_no_trace(self) -> None:
        bare, _, _ = self.run([training(12)])
        probed, optimizer, _ = self.run([*PROBES, training(12, restore=True)])
        for a, b in zip(bare.parameters(), probed.parameters(), strict=True):
            assert torch.equal(a, b)
        assert optimizer.param_groups[0]["k"] == 12

    def test_validation_sees_the_evaluation_weights_and_leaves_no_trace(self) -> None:
        silent, _, _ = self.run([training(12)], validates=False)
        watched, optimizer, seen = self.run([training(12, validate_at=[4, 8, 12])])
        for a, b in zip(silent.parameters(), watched.parameters(), strict=True):
            assert torch.equal(a, b)
        optimizer.eval()
        assert seen[-1] == loss_of(watched, batches()[0]).item()


def test_a_scheduler_beside_the_tuner_is_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    tuner = Tuner(model, optimizer, transport=ScriptedTransport([training(5), training(5)]), total_steps=10)
    for batch in tuner.batches(batches()):
        step(tuner, model, optimizer, batch)
        scheduler.step()
    assert len([record for record in caplog.records if "something else sets it" in record.message]) == 1


def test_a_tensor_lr_of_single_precision_is_no_meddling(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.0123))
    tuner = Tuner(model, optimizer, transport=ScriptedTransport([training(5), training(5)]), total_steps=10)
    for batch in tuner.batches(batches()):
        step(tuner, model, optimizer, batch)
    assert not caplog.records
