"""Updates that a device skips by itself, as with fused optimizers under a GradScaler, are no steps in the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from lrpilot.backends.torch import updates
from lrpilot.backends.torch.updates import Updates
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn

from tests.support.training.scripted_directives import probe, training


@dataclasses.dataclass
class Trained:
    """What a run leaves."""

    weights: torch.Tensor
    n_calls: int
    committed: int
    reports: Sequence[pb.Report]


def trained(*, fused: bool, overflows: Sequence[int], directives: Sequence[pb.Directive]) -> Trained:
    """A run in which the gradients of some calls are infinite, counted from each rollback on."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    transport = ScriptedTransport(directives)
    n_calls = 0
    n_steps = sum(directive.n_steps for directive in directives)
    with Tuner(
        net, optimizer, register={"scaler": scaler}, transport=transport, total_steps=n_steps, snapshot="device"
    ) as tuner:
        for number in tuner.batches([*range(20)]):
            loss = net(torch.full((2, 3), number / 20)).square().mean()
            scaler.scale(loss).backward()
            if number in overflows:
                assert net.weight.grad is not None
                net.weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            n_calls += 1
            tuner.step(torch.tensor(torch.inf) if number in overflows else loss)
        return Trained(net.weight.detach().clone(), n_calls, tuner.committed_step, transport.reports)


def directives() -> list[pb.Directive]:
    return [probe(0.1, 5, first=True), probe(0.2, 5), training(0.1, 6, restore=True), training(0.05, 4)]


@pytest.mark.parametrize("overflows", [(), (0,), (2, 3), (4, 5, 9)])
def test_a_run_is_the_one_whose_optimizer_is_not_called(
    overflows: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained(fused=False, overflows=overflows, directives=directives())
    monkeypatch.setattr(updates, "runs_ahead", lambda device: True)  # its flags are not read
    found = trained(fused=True, overflows=overflows, directives=directives())
    assert found.committed == expected.committed == 10
    assert found.n_calls == expected.n_calls
    assert (found.n_calls > 20) == bool(overflows)
    assert torch.allclose(found.weights, expected.weights)
    for ours, theirs in zip(found.reports, expected.reports, strict=True):
        assert ours.outcome == theirs.outcome == pb.OUTCOME_COMPLETED
        assert list(ours.losses) == pytest.approx(list(theirs.losses), rel=1e-5)


def test_updates_that_were_recorded_in_a_graph_count_though_nobody_calls_the_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    watched = Updates([optimizer], scaled=False)
    monkeypatch.setattr(updates, "runs_ahead", lambda device: True)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert watched.took_place()
    assert not watched.took_place()
    monkeypatch.setattr(updates, "is_recording", lambda device: True)
    optimizer.step()
    monkeypatch.undo()
    assert all(watched.took_place() for _ in range(5))
