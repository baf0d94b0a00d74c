"""A policy that asks for gradient norms, a real server over the wire, and a real training that has them measured."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lrpilot import Credentials
from lrpilot.backends.torch.backend import TorchBackend
from lrpilot.errors import ConfigError, RefusedError
from lrpilot.schedule.schedule import Schedule
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import rest_of
from torch.nn.utils import get_total_norm

from tests.support.extensions.measuring_policy import Measuring
from tests.support.servers.guarded_server import add_token, guarded
from tests.support.training.no_trace import batches, differences, loop, network, plain_run, probed_run, script
from tests.support.training.scripted_directives import ResumableScript, probe, training
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.core import policies
from tuner_server.storage.access import open_access

NORM = "gradient_norm"
ALL = ("gradient_norm", "gradient_l1_norm", "gradient_over_eps", "update_ratio", "update_norm", "update_product")
TOTAL_STEPS = 500


class Training:
    """A small network, the norms of its gradients at every update, and its committed losses."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = network()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.norms: list[float] = []

    def run(self, tuner: Tuner, n_steps: int | None = None, every: Callable[[], None] = lambda: None) -> None:
        """To the end, or for so many steps more."""
        end = math.inf if n_steps is None else len(self.norms) + n_steps
        for batch in tuner.batches(batches()):
            loss = self.model(batch).square().mean()
            loss.backward()
            self.norms.append(get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]).item())
            self.optimizer.step()
            self.optimizer.zero_grad()
            tuner.step(loss)
            every()
            if len(self.norms) >= end:
                return


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Arguments of a tuner at a server whose policies are those of this process."""
    monkeypatch.setitem(policies.POLICIES, Measuring.name, Measuring)
    Measuring.seen.clear()
    url = f"sqlite:///{tmp_path}/jobs.db"
    with open_access(url) as access, guarded(url) as server:
        yield {"server": server.target, "credentials": Credentials(token=add_token(access, DEFAULT_PROJECT).text)}


def job(policy: str) -> dict[str, Any]:
    options = {"probe_steps": 8, "refinements": 1, "max_candidates": 4}
    return {"total_steps": TOTAL_STEPS, "lr_bounds": (1e-3, 1.0), "policy": policy, "policy_options": options}


def history(tuner: Tuner) -> list[pb.HistoryEntry]:
    """As the server gives it."""
    request = pb.GetScheduleRequest(job_id=tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
    session = tuner._session
    transport = session._outbox._transport  # type: ignore[union-attr]  # the tuner's own connection, with its token
    return list(transport.get_schedule(request, 10.0).history)


def test_norms_of_probes_and_committed_parts_reach_the_policy_and_are_kept(connection: dict[str, Any]) -> None:
    """Bit for bit as the loop computes them, and the run is the one that it is without them."""
    measured = Training()
    with Tuner(measured.model, measured.optimizer, **job(Measuring.name), **connection) as tuner:
        measured.run(tuner)
        entries = [entry for entry in history(tuner) if entry.HasField("report")]
        losses = tuner.schedule.losses
    assert {entry.directive.phase for entry in entries} >= {pb.PHASE_PROBE, pb.PHASE_TRAIN}
    assert {entry.report.outcome for entry in entries} >= {pb.OUTCOME_COMPLETED, pb.OUTCOME_PARTIAL}
    assert {measure.name for entry in entries for measure in entry.report.measures} == set(ALL)
    stored = [value for entry in entries for value in norms(entry.report)]
    assert len(measured.norms) == TOTAL_STEPS
    assert stored == measured.norms
    whole = [norms(entry.report) for entry in entries if entry.report.outcome != pb.OUTCOME_PARTIAL]
    seen = [list(report.measures[NORM]) for _, report in Measuring.seen]
    assert len(seen) >= 4
    assert seen == whole[: len(seen)]
    bare = Training()
    with Tuner(bare.model, bare.optimizer, **job("budget"), **connection) as tuner:
        bare.run(tuner)
        assert tuner.schedule.losses == losses
    for ours, theirs in zip(bare.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert bare.norms == measured.norms


def norms(report: pb.Report) -> list[float]:
    [measure] = [each for each in report.measures if each.name == NORM]
    assert len(measure.values) == len(report.losses)
    return list(measure.values)


def asking(directives: list[pb.Directive]) -> list[pb.Directive]:
    for directive in directives:
        directive.measures.append(NORM)
    return directives


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor], ids=lambda kind: kind.__name__
)
def test_probes_leave_no_trace_while_norms_are_taken(optimizer: Any) -> None:
    def make() -> Any:
        model = network()
        return loop(model, optimizer(model.parameters(), lr=0.01))

    expected, expected_losses = plain_run(make)
    found, losses = probed_run(make, asking(script()))
    assert losses == expected_losses
    assert not differences(expected, found)


def directives() -> list[pb.Directive]:
    """The last one is what is left of the one before, as a server answers to its first part."""
    committed = training(0.01, 12, restore=True, report_every=6)
    return asking([probe(0.1, 6, first=True), probe(0.2, 6), committed, rest_of(committed, 6)])


def scripted(training: Training, transport: ScriptedTransport) -> Tuner:
    return Tuner(training.model, training.optimizer, transport=transport, total_steps=24)


@pytest.mark.parametrize("n_steps", [4, 9, 14, 20])
def test_a_run_that_is_resumed_in_the_middle_of_a_directive_has_all_its_norms(n_steps: int) -> None:
    """In a probe, in the second one, and in either part of committed steps."""
    transports = [ResumableScript(directives()) for _ in range(3)]
    whole = Training()
    whole.run(scripted(whole, transports[0]))
    before = Training()
    tuner = scripted(before, transports[1])
    before.run(tuner, n_steps)
    saved = before.model.state_dict(), before.optimizer.state_dict(), tuner.state_dict()
    after = Training(seed=9)
    resumed = scripted(after, transports[2])
    after.model.load_state_dict(saved[0])
    after.optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    after.run(resumed)
    assert before.norms + after.norms == whole.norms
    reports = [report for transport in transports[1:] for report in transport.reports]
    assert [norms(report) for report in reports] == [norms(report) for report in transports[0].reports]
    assert [value for report in reports for value in norms(report)] == whole.norms


def test_a_directive_that_asks_for_what_the_run_can_not_measure_is_not_carried_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = directives()
    script[2].measures[:] = ["secrets"]
    run, transport = Training(), ScriptedTransport(script)
    with caplog.at_level(logging.WARNING, "lrpilot"), scripted(run, transport) as tuner:
        run.run(tuner)
        assert tuner.committed_step + tuner.search_steps == 24
    assert transport.config.measures == list(TorchBackend(run.model, [run.optimizer], None, {}).measures)
    assert "it asks to measure ['secrets'], of ['gradient_norm', " in caplog.text
    assert {measure.name for report in transport.reports for measure in report.measures} == {NORM}


@pytest.mark.parametrize("failing", ["measure", "flush_measures"])
def test_a_run_that_can_not_measure_reports_its_losses_all_the_same(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    run, transport = Training(), ScriptedTransport(directives())
    odd = mock.patch.object(TorchBackend, failing, side_effect=MemoryError("no more"))
    with caplog.at_level(logging.WARNING, "lrpilot"), odd, scripted(run, transport) as tuner:
        run.run(tuner)
    assert [len(report.losses) for report in transport.reports] == [6, 6, 6, 6]
    assert not any(report.measures for report in transport.reports)
    assert "measured" in caplog.text
    assert len(tuner.schedule.losses) == 12


def test_a_directive_that_does_not_ask_has_nothing_measured() -> None:
    script = directives()
    del script[1].measures[:]
    run, transport = Training(), ScriptedTransport(script)
    hooks: list[int] = []
    with contextlib.closing(scripted(run, transport)) as tuner:
        run.run(tuner, every=lambda: hooks.append(len(run.optimizer._optimizer_step_pre_hooks)))
    assert [len(report.measures) for report in transport.reports] == [1, 0, 1, 1]
    assert hooks == [1] * 5 + [0] * 6 + [1] * 12 + [0]


def test_a_run_that_is_closed_in_the_middle_reports_what_it_has_measured() -> None:
    run, transport = Training(), ScriptedTransport(directives())
    with scripted(run, transport) as tuner:
        run.run(tuner, 12 + 4)
    assert norms(transport.reports[-1]) == run.norms[-4:]


def test_a_report_with_measures_that_are_wrong_is_refused_and_the_job_goes_on(connection: dict[str, Any]) -> None:
    config = pb.JobConfig(policy=Measuring.name, base_lr=0.1, total_steps=TOTAL_STEPS, measures=["a", "b"])
    config.lr_bounds.CopyFrom(pb.LrBounds(min=1e-3, max=1.0))
    with contextlib.closing(GrpcTransport(connection["server"], connection["credentials"])) as transport:
        created = transport.create_job(pb.CreateJobRequest(request_id="1", config=config), 10.0)
        n = created.directive.n_steps
        assert created.directive.measures == ["a", "b"]

        def report(**measures: int) -> pb.AdvanceRequest:
            series = [pb.Measure(name=name, values=[1.0] * length) for name, length in measures.items()]
            sent = pb.Report(directive_number=1, outcome=pb.OUTCOME_COMPLETED, losses=[1.0] * n, measures=series)
            return pb.AdvanceRequest(job_id=created.job.id, report=sent)

        twice = report(a=n)
        twice.report.measures.append(pb.Measure(name="a", values=[1.0] * n))
        for wrong in (report(a=n - 1), report(a=n, b=n + 1), report(c=n), report(A=n), twice):
            with pytest.raises(RefusedError, match=r"report\.measures") as caught:
                transport.advance(wrong, 10.0)
            assert caught.value.code == "INVALID_ARGUMENT"
        assert transport.advance(report(b=n), 10.0).directive.number == 2
        config.measures[:] = ["not a name"]
        with pytest.raises(RefusedError, match="measures"):
            transport.create_job(pb.CreateJobRequest(request_id="2", config=config), 10.0)


def test_what_is_recorded_is_measured_at_committed_steps_whatever_the_policy_and_stays_with_the_schedule(
    connection: dict[str, Any], tmp_path: Path
) -> None:
    measured = Training()
    with Tuner(measured.model, measured.optimizer, record=(NORM,), **job("budget"), **connection) as tuner:
        measured.run(tuner)
        entries = [entry for entry in history(tuner) if entry.HasField("report")]
        full = pb.GetScheduleRequest(job_id=tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
        response = tuner._session._outbox._transport.get_schedule(full, 10.0)  # type: ignore[union-attr]
        schedule = tuner.schedule
    assert all(bool(entry.report.measures) == entry.committed for entry in entries)
    committed = schedule.measured(NORM)
    assert committed == tuple(measured.norms[-schedule.n_steps :])
    assert Schedule.from_response(response).measured(NORM) == committed
    schedule.save(tmp_path / "schedule.json")
    assert Schedule.load(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize(
    ("record", "error", "words"),
    [(("secrets",), RefusedError, "recorded.*secrets.*gradient_norm"), ("gradient_norm", ConfigError, "a string")],
)
def test_what_can_not_be_recorded_is_refused(
    connection: dict[str, Any], record: Any, error: type[Exception], words: str
) -> None:
    measured = Training()
    with pytest.raises(error, match=words):
        Tuner(measured.model, measured.optimizer, record=record, **job("budget"), **connection)


def test_a_job_refines_its_decay_by_the_norms_of_its_family_s_first(connection: dict[str, Any]) -> None:
    """Over the wire: the answer to a part is another rest, client and server have the same schedule of it."""
    shapes = []
    for _ in range(2):
        measured = Training()
        with Tuner(measured.model, measured.optimizer, family="one", **job("refined"), **connection) as tuner:
            for batch in tuner.batches(batches()):
                # A loss that noise keeps from falling to zero, and whose gradients grow on the way.
                loss = (measured.model(batch) - torch.randn(1)).square().mean()
                (loss * (1 + 5 * tuner.committed_step / TOTAL_STEPS)).backward()
                measured.optimizer.step()
                measured.optimizer.zero_grad()
                tuner.step(loss)
            full = pb.GetScheduleRequest(job_id=tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
            response = tuner._session._outbox._transport.get_schedule(full, 10.0)  # type: ignore[union-attr]
            schedule = tuner.schedule
        shapes.append([segment.profile.shape.name for segment in schedule.segments])
        told = Schedule.from_response(response)
        assert (told.segments, told.measures) == (schedule.segments, schedule.measures)
        assert len(schedule.measured("gradient_l1_norm")) == schedule.n_steps
    assert shapes[0] == ["linear"]
    assert shapes[1][:2] == ["linear", "points"]
    decisions = [entry.decision.reason for entry in response.history if entry.HasField("decision")]
    assert any("the decay was refined" in reason for reason in decisions)
