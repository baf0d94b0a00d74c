from __future__ import annotations

import contextlib

import lrpilot
import pytest
import torch
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.profile import Shape
from torch import nn


def constant(lr: float, n_steps: int, phase: pb.Phase.ValueType) -> pb.Directive:
    profile = pb.Profile(shape="constant", start_lr=lr, end_lr=lr, length=n_steps)
    return pb.Directive(phase=phase, n_steps=n_steps, profile=profile)


def test_a_tuner_follows_the_script_and_its_reports_are_kept() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = constant(0.5, 2, pb.PHASE_PROBE)
    probe.snapshot = True
    train = constant(0.25, 3, pb.PHASE_TRAIN)
    train.restore = True
    transport = ScriptedTransport([probe, train])

    lrs = []
    with lrpilot.Tuner(model, optimizer, total_steps=5, seed=7, transport=transport) as tuner:
        while not tuner.finished:
            lrs.append(tuner.lr)
            tuner.step(1.0 + len(lrs))

    assert lrs == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert (transport.config.total_steps, transport.config.seed) == (5, 7)
    assert [report.directive_number for report in transport.reports] == [1, 2]
    assert [list(report.losses) for report in transport.reports] == [[2.0, 3.0], [4.0, 5.0, 6.0]]
    assert tuner.schedule.segments[0].profile.shape == Shape.CONSTANT
    assert transport.closed


def test_a_constant_lr_is_warmed_up_to_step_by_step() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train = constant(0.4, 40, pb.PHASE_TRAIN)
    train.profile.warmup = 3

    lrs = []
    with lrpilot.Tuner(model, optimizer, total_steps=40, transport=ScriptedTransport([train])) as tuner:
        while not tuner.finished:
            lrs.append(optimizer.param_groups[0]["lr"])
            tuner.step(1.0)

    assert lrs == tuner.schedule.lrs()
    assert lrs[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4], rel=1e-12)


def test_the_script_is_left_as_it_was_and_ends_in_a_stop() -> None:
    script = [constant(0.1, 1, pb.PHASE_TRAIN)] * 2
    transport = ScriptedTransport(script)
    first = transport.create_job(pb.CreateJobRequest(), 1.0).directive
    second = transport.advance(pb.AdvanceRequest(), 1.0).directive
    stop = transport.advance(pb.AdvanceRequest(), 1.0).directive
    assert [first.number, second.number, stop.number] == [1, 2, 3]
    assert stop.phase == pb.PHASE_STOP
    assert script[0].number == 0


def test_an_interrupt_between_a_loss_and_its_count_leaves_the_report_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    transport = ScriptedTransport([constant(0.1, 50, pb.PHASE_TRAIN)])
    with lrpilot.Tuner(model, optimizer, total_steps=50, transport=transport) as tuner:
        append = tuner._backend.append
        interrupts = iter([False] * 10 + [True] + [False] * 200)

        def interrupted(loss: float) -> bool:
            counts = append(loss)
            if next(interrupts):
                raise KeyboardInterrupt
            return counts

        monkeypatch.setattr(tuner._backend, "append", interrupted)
        for step in range(51):  # as in a notebook, whose cell is run again
            with contextlib.suppress(KeyboardInterrupt):
                tuner.step(float(step))
        assert tuner.finished
    assert [len(report.losses) for report in transport.reports] == [50]
    assert list(transport.reports[0].losses) == [float(step) for step in range(1, 51)]
