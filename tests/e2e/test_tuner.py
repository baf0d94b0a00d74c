"""The tuner in real training loops: what people must be able to rely on."""

from __future__ import annotations

import copy
import functools
import math
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import lrpilot
import pytest
import torch
from lrpilot.errors import UnavailableError
from lrpilot.session.session import PART_TIMEOUT_S, Session
from lrpilot.transport.embedded_transport import EmbeddedTransport
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tests.support.servers.server_process import ServerProcess, running
from tests.support.training.same_bits import assert_same
from tests.support.training.scripted_directives import probe, training

N_SAMPLES, BATCH = 96, 16
BOUNDS = (1e-4, 1.0)


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Two blobs, augmented from the global random state as torchvision does it."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.targets = torch.arange(N_SAMPLES) % 2
        self.inputs = torch.randn(N_SAMPLES, 8, generator=generator) + self.targets[:, None]

    def __len__(self) -> int:
        return N_SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index] + 0.1 * torch.randn(8), self.targets[index]


class Run:
    """A training run on shuffled, augmented data: batch norm, dropout, and an optimizer without state yet."""

    def __init__(self, make: Callable[[nn.Module], torch.optim.Optimizer], seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model: nn.Sequential = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
        )
        self.optimizer = make(self.model)
        self.loader = DataLoader(Noisy(), batch_size=BATCH, shuffle=True)
        self.used_lrs: list[float] = []
        self.steps = 0

    def update(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, targets = batch
        loss = functional.cross_entropy(self.model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.used_lrs.append(float(self.optimizer.param_groups[0]["lr"]))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return loss

    def validate(self) -> float:
        self.model.eval()
        data = Noisy()
        with torch.no_grad():
            return functional.cross_entropy(self.model(data.inputs), data.targets).item() + 0.0 * torch.rand(()).item()

    def train(self, tuner: Tuner) -> None:
        for batch in tuner.batches(self.loader):
            tuner.step(self.update(batch))

    def everything(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            }
        )


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def scripted(run: Run, directives: list[pb.Directive], **arguments: Any) -> tuple[Tuner, ScriptedTransport]:
    transport = ScriptedTransport(directives)
    arguments.setdefault("total_steps", sum(directive.n_steps for directive in directives))
    return Tuner(run.model, run.optimizer, transport=transport, **arguments), transport


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("before", [0, 5])
def test_a_probe_leaves_no_trace(make: Callable[[nn.Module], torch.optim.Optimizer], before: int) -> None:
    """Invariant 3. The bare loop has neither tuner nor probes; 20 committed steps cross an epoch's end."""
    bare = Run(make)
    batches = iter(_endless(bare.loader))
    for _ in range(before):
        bare.optimizer.param_groups[0]["lr"] = 0.02
        bare.update(next(batches))
    bare.optimizer.param_groups[0]["lr"] = 0.03
    for _ in range(20):
        bare.update(next(batches))

    probed = Run(make)
    script = [training(0.02, before)] if before else []
    script += [probe(10.0, 9, first=True), probe(0.5, 14), probe(1e-4, 3), training(0.03, 20, restore=True)]
    tuner, _ = scripted(probed, script, validate=probed.validate)
    probed.train(tuner)

    assert probed.steps == before + 9 + 14 + 3 + 20
    assert_same(bare.everything(), {**probed.everything(), "optimizer": probed.everything()["optimizer"]})


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def test_every_probe_starts_at_its_own_lr() -> None:
    """Invariant 4: restore, then set the LR."""
    run = Run(adamw)
    tuner, _ = scripted(
        run, [training(0.02, 3), probe(0.5, 4, first=True), probe(0.001, 4), training(0.03, 4, restore=True)]
    )
    run.train(tuner)
    assert run.used_lrs == [0.02] * 3 + [0.5] * 4 + [0.001] * 4 + [0.03] * 4


def test_group_ratios_are_kept_and_a_tensor_lr_stays_the_same_tensor() -> None:
    """Invariant 5."""
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    lr = torch.tensor(0.05)
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": lr}, {"params": model[1].parameters(), "lr": 0.005}]
    )
    run = Run(sgd)
    run.model, run.optimizer = model, optimizer
    tuner, _ = scripted(run, [probe(0.4, 2, first=True), training(0.2, 2, restore=True)])
    assert tuner.get_last_lr() == pytest.approx([0.4, 0.04])
    run.train(tuner)
    assert optimizer.param_groups[0]["lr"] is lr
    assert tuner.get_last_lr() == pytest.approx([0.2, 0.02])


def test_several_optimizers_are_tuned_and_rolled_back_together() -> None:
    """One per half of the model; the second runs at a tenth of the first one's LR throughout."""

    def trained(directives: list[pb.Directive]) -> tuple[Run, list[torch.optim.Optimizer]]:
        run = Run(sgd)
        halves = [list(run.model[:3].parameters()), list(run.model[3:].parameters())]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(halves[0], lr=0.1, momentum=0.9),
            torch.optim.AdamW(halves[1], lr=0.01),
        ]
        total = sum(directive.n_steps for directive in directives)
        tuner = Tuner(run.model, optimizers, transport=ScriptedTransport(directives), total_steps=total)
        for batch in tuner.batches(run.loader):
            inputs, targets = batch
            loss = functional.cross_entropy(run.model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            tuner.step(loss)
        return run, optimizers

    bare, _ = trained([training(0.03, 12)])
    probed, optimizers = trained([probe(0.5, 6, first=True), training(0.03, 12, restore=True)])
    assert_same(bare.model.state_dict(), probed.model.state_dict())
    assert [group["lr"] for each in optimizers for group in each.param_groups] == pytest.approx([0.03, 0.003])


def test_a_probe_that_diverges_ends_early_and_is_reported() -> None:
    """Invariant 8, on the client: the steps that were run are all reported, and the weights come back."""
    run = Run(sgd)
    tuner, transport = scripted(run, [probe(1e6, 40, first=True), training(0.03, 10, restore=True)])
    run.train(tuner)
    diverged = transport.reports[0]
    assert diverged.outcome == pb.OUTCOME_DIVERGED
    assert len(diverged.losses) < 40
    assert not math.isfinite(diverged.losses[-1])
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())
    assert len(transport.reports[1].losses) == 10
    assert run.steps == 50  # what the probe left of the budget is annealed


def test_validation_leaves_no_trace() -> None:
    """It draws random numbers and leaves the model in evaluation mode; the training doesn't notice."""
    results = []
    for validate_at in ((), (0, 3, 7, 10)):
        run = Run(adamw)
        tuner, transport = scripted(run, [training(0.02, 10, validate_at=validate_at)], validate=run.validate)
        run.train(tuner)
        assert run.model.training
        assert [v.step for v in transport.reports[0].validations] == list(validate_at)
        results.append(run.everything())
    assert_same(results[0], results[1])


def test_parts_do_not_change_the_training() -> None:
    run = Run(sgd)
    parts = [training(0.02, 10, report_every=4), training(0.02, 6, report_every=4), training(0.02, 2)]
    parts[1].snapshot = parts[2].snapshot = False
    tuner, transport = scripted(run, parts, total_steps=10)
    run.train(tuner)
    assert [len(report.losses) for report in transport.reports] == [4, 4, 2]
    assert [report.outcome for report in transport.reports] == [
        pb.OUTCOME_PARTIAL,
        pb.OUTCOME_PARTIAL,
        pb.OUTCOME_COMPLETED,
    ]
    whole = Run(sgd)
    whole.train(scripted(whole, [training(0.02, 10)])[0])
    assert_same(run.everything(), whole.everything())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with running(f"sqlite:///{tmp_path / 'jobs.db'}") as process:
        yield process


OPTIONS = {"tau": 40, "tau_prime": 10, "candidates": 3}


def tuned(server: str, run: Run, **arguments: Any) -> Tuner:
    return Tuner(
        run.model,
        run.optimizer,
        server=server,
        total_steps=arguments.pop("total_steps", 200),
        lr_bounds=arguments.pop("lr_bounds", BOUNDS),
        policy=arguments.pop("policy", "autolrs"),
        policy_options=arguments.pop("policy_options", OPTIONS),
        validate=run.validate,
        seed=3,
        **arguments,
    )


def test_a_job_over_a_socket_spends_exactly_its_budget(shared_server: ServerProcess) -> None:
    """Invariant 7, with the range test that comes before a job without bounds."""
    run = Run(sgd)
    with tuned(shared_server.target, run, total_steps=333, lr_bounds=None) as tuner:
        run.train(tuner)
        assert tuner.finished
        assert run.steps == 333
        assert tuner.committed_step + tuner.search_steps == 333
        schedule = tuner.schedule
    assert schedule.n_steps == tuner.committed_step
    request = pb.GetScheduleRequest(job_id=tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
    stored = shared_server.stub.GetSchedule(request, timeout=10)
    assert lrpilot.Schedule.from_response(stored, schedule.base_lrs) == schedule


def test_a_server_killed_between_reports_changes_nothing(tmp_path: Path) -> None:
    """Invariants 1 and 2: SIGKILL at several directive boundaries; schedule and weights are bitwise the same."""
    finals = []
    for kills in ((), (2, 7)):
        run = Run(sgd)
        transport = Restarting(f"sqlite:///{tmp_path / f'{len(kills)}.db'}", kills)
        run.train(tuned("", run, transport=transport))
        finals.append((run.everything(), transport.schedule()))
        transport.server.close()
    assert_same(finals[0][0], finals[1][0])
    assert finals[0][1] == finals[1][1]


class Restarting(GrpcTransport):
    """Kills the server with SIGKILL before some reports, and starts it again on the same port and file."""

    def __init__(self, db: str, kills: tuple[int, ...]) -> None:
        self.server = ServerProcess(db)
        super().__init__(self.server.target)
        self._db, self._kills, self._job_id = db, kills, ""

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._job_id = request.job_id
        if request.report.directive_number in self._kills:
            self.server.close()
            self.server = ServerProcess(self._db, "--listen", self.target)
        return super().advance(request, timeout_s)

    def close(self) -> None:
        """Stays open: the test asks for the schedule."""

    def schedule(self) -> list[tuple[int, int, bytes]]:
        response = self.stub.GetSchedule(pb.GetScheduleRequest(job_id=self._job_id), timeout=10)
        return [(s.start_step, s.n_steps, s.profile.SerializeToString()) for s in response.segments]


def test_a_server_that_dies_does_not_stop_the_training(server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 6: in the middle of a probe; the rest of the budget is annealed, with one warning."""
    run = Run(sgd)
    tuner = tuned(server.target, run, timeout_s=1.0)
    before = run.everything()["model"]
    batches = tuner.batches(run.loader)
    for _ in range(5):
        tuner.step(run.update(next(batches)))
    assert tuner.phase == "probe"
    server.signal(signal.SIGKILL)
    for batch in batches:
        tuner.step(run.update(batch))
    assert run.steps == 200
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    lrs = run.used_lrs[-tuner.committed_step :]
    peak = lrs.index(max(lrs))  # nothing was committed before, so it warms up
    assert lrs[: peak + 1] == sorted(lrs[: peak + 1])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    assert lrs[-1] < lrs[peak] / 20
    assert any(not torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


class Flaky(GrpcTransport):
    """Away for a while: loses requests, or answers, of reports that can't wait, by the count of the call."""

    def __init__(self, target: str, lost_requests: set[int], lost_answers: set[int]) -> None:
        super().__init__(target)
        self._lost_requests, self._lost_answers = lost_requests, lost_answers
        self._calls = 0

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        if timeout_s > PART_TIMEOUT_S:
            return super().advance(request, timeout_s)
        self._calls += 1
        if self._calls in self._lost_requests:
            raise UnavailableError("request lost", "UNAVAILABLE")
        response = super().advance(request, timeout_s)
        if self._calls in self._lost_answers:
            raise UnavailableError("answer lost", "DEADLINE_EXCEEDED")
        return response


def trained(transport: GrpcTransport) -> tuple[Run, Tuner]:
    run = Run(sgd)
    options = {"probe_steps": 5, "refinements": 0}
    tuner = tuned("", run, transport=transport, total_steps=500, policy="budget", policy_options=options)
    run.train(tuner)
    return run, tuner


@functools.cache
def without_outages(target: str) -> tuple[dict[str, Any], lrpilot.Schedule]:
    """What `trained` leaves, and its schedule."""
    run, tuner = trained(GrpcTransport(target))
    return copy.deepcopy(run.everything()), tuner.schedule


@pytest.mark.parametrize(
    ("lost_requests", "lost_answers"),
    [({1}, set()), (set(), {1}), ({1, 2, 3}, set()), ({2}, {4}), (set(range(1, 100)), set())],
    ids=["a request", "an answer", "three in a row", "one of each", "all but the last"],
)
def test_an_outage_within_committed_steps_changes_nothing(
    shared_server: ServerProcess, caplog: pytest.LogCaptureFixture, lost_requests: set[int], lost_answers: set[int]
) -> None:
    """Invariant 6: training goes on as it was told; once the server is back it has every report, and nothing twice."""
    undisturbed, expected = without_outages(shared_server.target)
    disturbed, tuner = trained(Flaky(shared_server.target, lost_requests, lost_answers))
    assert_same(undisturbed, disturbed.everything())
    assert tuner.schedule.segments == expected.segments
    assert 1 <= len([record for record in caplog.records if record.levelname == "WARNING"]) <= 2
    request = pb.GetScheduleRequest(job_id=tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
    stored = shared_server.stub.GetSchedule(request, timeout=10)
    assert stored.job.state == pb.JOB_STATE_FINISHED
    assert lrpilot.Schedule.from_response(stored, tuner.schedule.base_lrs) == tuner.schedule


def test_a_server_that_restarts_in_time_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is away for longer than its clients' retries take, and shorter than their deadline."""
    run, db = Run(sgd), f"sqlite:///{tmp_path / 'jobs.db'}"
    server = ServerProcess(db)
    tuner = tuned(server.target, run, total_steps=120)
    server.close()
    restarted: list[ServerProcess] = []
    later = threading.Timer(4.0, lambda: restarted.append(ServerProcess(db, "--listen", server.target)))
    later.start()
    run.train(tuner)
    later.join()
    restarted[0].close()
    assert run.steps == 120
    assert not caplog.records
    assert tuner.schedule.policy == "autolrs"


def test_cancelled_from_outside_it_goes_back_and_trains_on(shared_server: ServerProcess) -> None:
    run = Run(sgd)
    tuner = tuned(shared_server.target, run)
    batches = tuner.batches(run.loader)
    for _ in range(5):
        tuner.step(run.update(next(batches)))
    shared_server.stub.CancelJob(pb.CancelJobRequest(job_id=tuner.job_id, reason="enough"), timeout=10)
    for batch in batches:
        tuner.step(run.update(batch))
    assert run.steps == 200
    assert tuner.search_steps == OPTIONS["tau_prime"]


def test_several_jobs_at_once_find_what_each_finds_alone(shared_server: ServerProcess) -> None:
    found: dict[int, list[float]] = {}
    threads = [threading.Thread(target=_keep_lrs, args=(found, shared_server, i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: _simulated_lrs(shared_server, i) for i in range(4)}


def _keep_lrs(found: dict[int, list[float]], server: ServerProcess, seed: int) -> None:
    found[seed] = _simulated_lrs(server, seed)


def _simulated_lrs(server: ServerProcess, seed: int) -> list[float]:
    """A loop without PyTorch's global random state, which threads would share."""
    parameter = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    tuner = Tuner(
        nn.ParameterList([parameter]),
        optimizer,
        server=server.target,
        total_steps=150,
        lr_bounds=BOUNDS,
        policy="autolrs",
        policy_options=OPTIONS,
        seed=seed,
    )
    lrs = []
    while not tuner.finished:
        lrs.append(tuner.lr)
        loss = (parameter**2).sum() * (1 + seed)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
        tuner.step(loss.detach())
    return lrs


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"lr_bounds": (1.0, 0.1)}, "lr_bounds"),
        ({"lr_bounds": (0.0, 0.1)}, "lr_bounds"),
        ({"lr_bounds": (0.1, math.inf)}, "lr_bounds"),
        ({"lr_bounds": "wide"}, "lr_bounds"),
        ({"policy_options": {"tau": 10, "tau_prime": 10}}, "policy_options.tau_prime"),
        ({"policy_options": {"tao": 10}}, "policy_options.tao"),
        ({"policy_options": {"tau": object()}}, "policy_options"),
        ({"total_steps": 60}, "total_steps"),
        ({"total_steps": -1}, "total_steps"),
    ],
)
def test_bad_arguments_are_refused_by_name(shared_server: ServerProcess, arguments: dict[str, Any], field: str) -> None:
    run = Run(sgd)
    before = run.everything()
    with pytest.raises(lrpilot.LRPilotError, match=field.replace(".", r"\.")):
        tuned(shared_server.target, run, **arguments)
    assert_same(before, run.everything())


def _raises() -> float:
    raise RuntimeError("no such file")


@pytest.mark.parametrize("validate", [_raises, lambda: math.nan, lambda: "low"])
def test_a_validate_function_that_does_not_work_is_refused_before_anything_happens(validate: Any) -> None:
    run = Run(sgd)
    with pytest.raises(lrpilot.ConfigError, match="validate"):
        Tuner(run.model, run.optimizer, transport=ScriptedTransport([]), validate=validate)


def test_a_server_that_is_not_there_is_named() -> None:
    run = Run(sgd)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 can't be used"):
        tuned("127.0.0.1:1", run, timeout_s=1.0, strict=True)


def test_a_loss_that_is_no_scalar_and_an_empty_loader_are_refused() -> None:
    run = Run(sgd)
    tuner, _ = scripted(run, [training(0.02, 10)])
    with pytest.raises(ValueError, match=r"loss: shape \(3,\)"):
        tuner.step(torch.ones(3))
    with pytest.raises(ValueError, match="empty"):
        next(tuner.batches([]))


def test_closing_in_a_probe_goes_back_to_the_snapshot() -> None:
    run = Run(adamw)
    tuner, transport = scripted(run, [training(0.02, 4), probe(0.5, 20, first=True), training(0.02, 5, restore=True)])
    batches = tuner.batches(run.loader)
    for _ in range(4):
        tuner.step(run.update(next(batches)))
    weights = copy.deepcopy(run.model.state_dict())
    for _ in range(7):
        tuner.step(run.update(next(batches)))
    tuner.close()
    tuner.close()
    assert_same(weights, run.model.state_dict())
    assert transport.closed
    assert tuner.finished


def test_without_a_server_one_is_started_and_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRPILOT_SERVER", raising=False)
    monkeypatch.setenv("LRPILOT_DB", f"sqlite:///{tmp_path / 'own.db'}")
    run = Run(sgd)
    with tuned("", run) as tuner:
        assert isinstance(tuner._session, Session)
        transport = tuner._session._outbox._transport
        assert isinstance(transport, EmbeddedTransport)
        process = transport.server._process
        run.train(tuner)
    assert process.poll() is not None
    assert run.steps == 200


RESUMED: dict[str, dict[str, Any]] = {
    "autolrs": {"total_steps": 200, "policy": "autolrs", "policy_options": OPTIONS},
    # It searches in no shorter run.
    "budget": {"total_steps": 500, "policy": "budget", "policy_options": {"probe_steps": 8, "refinements": 1}},
}


@functools.cache
def uninterrupted(target: str, policy: str) -> tuple[dict[str, Any], lrpilot.Schedule]:
    """What a run that nothing happens to leaves, and its schedule."""
    run = Run(adamw)
    tuner = tuned(target, run, **RESUMED[policy])
    run.train(tuner)
    return copy.deepcopy(run.everything()), tuner.schedule


@pytest.mark.parametrize("policy", ["autolrs", "budget"])
@pytest.mark.parametrize("stop", [3, 14, 33, 61, 150])
def test_a_run_resumed_from_a_checkpoint_ends_as_if_it_had_not_been_interrupted(
    shared_server: ServerProcess, tmp_path: Path, policy: str, stop: int
) -> None:
    """In probes and between them; the first life goes on past its checkpoint before it dies."""
    whole, expected = uninterrupted(shared_server.target, policy)
    first = Run(adamw)
    tuner = tuned(shared_server.target, first, **RESUMED[policy])
    for batch in tuner.batches(first.loader):
        tuner.step(first.update(batch))
        if first.steps == stop:
            checkpoint = {
                "model": first.model.state_dict(),
                "optimizer": first.optimizer.state_dict(),
                "tuner": tuner.state_dict(),
            }
            torch.save(checkpoint, tmp_path / "checkpoint.pt")
        if first.steps == stop + 30:
            break

    second = Run(adamw, seed=99)  # other weights, other random numbers: all must come from the checkpoint
    tuner = tuned(shared_server.target, second, **RESUMED[policy])
    stray = tuner.job_id
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    second.model.load_state_dict(loaded["model"])
    second.optimizer.load_state_dict(loaded["optimizer"])
    tuner.load_state_dict(loaded["tuner"])
    second.train(tuner)

    assert stop + second.steps == RESUMED[policy]["total_steps"]
    assert_same(whole, second.everything())
    assert tuner.schedule.segments == expected.segments
    assert tuner.schedule.losses == expected.losses
    with pytest.raises(grpc.RpcError) as gone:
        shared_server.stub.GetJob(pb.GetJobRequest(job_id=stray), timeout=10)
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_checkpoint_of_another_format_is_refused() -> None:
    run = Run(sgd)
    tuner, _ = scripted(run, [training(0.02, 10)])
    with pytest.raises(lrpilot.ConfigError, match="format 7"):
        tuner.load_state_dict({"format": 7})


def test_a_snapshot_that_can_not_be_taken_ends_the_tuning_and_not_the_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the second search begins."""
    run = Run(sgd)
    script = [training(0.02, 10), probe(0.5, 5, first=True), training(0.03, 20, restore=True)]
    tuner, _ = scripted(run, script)

    def full(data: object) -> None:
        raise OSError(28, "No space left on device")

    batches = tuner.batches(run.loader)
    tuner.step(run.update(next(batches)))
    monkeypatch.setattr(tuner._backend, "take", full)
    for batch in batches:
        tuner.step(run.update(batch))
    assert run.steps == tuner.committed_step == 35
    assert "No space left" in caplog.text


def test_where_the_snapshot_lives_is_checked_before_anything_happens() -> None:
    run = Run(sgd)
    with pytest.raises(lrpilot.ConfigError, match="snapshot"):
        scripted(run, [training(0.02, 10)], snapshot="moon")
