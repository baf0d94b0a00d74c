"""Committed steps that fall short of what the search promised: networks that really die, and noise that looks like it.

The networks are rectifiers with no normalisation. Where their LR is to lie between bounds that no run of theirs
survives, a probe of a few steps does. Once all units of a layer are dead for every input, no gradient passes: the loss
stays at chance, and is finite. Which of them die by themselves hangs on how a processor rounds, so their biases are
pushed below all inputs where an LR has been high for longer than a probe.
"""

from __future__ import annotations

import copy
import functools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.tuner import Tuner
from lrpilot.v1 import tuner_pb2 as pb
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.hyperparameters.runs import GUESS, SETTINGS, Training
from tests.support.servers.faulty_proxy import Proxy, Refuse
from tests.support.servers.server_process import ServerProcess, running
from tuner_server.core.job import machine
from tuner_server.rpc.convert import config_from_pb, directive_to_pb, report_from_pb

TOTAL, BATCH = 600, 16
N_SAMPLES, N_INPUTS, N_CLASSES, WIDTH, DEPTH = 2048, 16, 8, 16, 4
CHANCE = math.log(N_CLASSES)
DEADLY = (0.2, 1.0)
BOUNDS = (1e-3, 0.3)
SEEDS = [5, 6]
SURVIVED_LR, SURVIVED_STEPS = 0.15, 25
"""A network dies after more than so many steps in a row above this LR; a probe has fewer."""
OPTIONS: dict[str, Any] = {"probe_steps": 16, "length_exponent": 0.0, "widening": 1.0}


class Run:
    """Blobs, some of which have a label that is drawn at random."""

    def __init__(self, seed: int, *, normalised: bool = False, label_noise: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(3)
        centres = torch.randn(N_CLASSES, N_INPUTS, generator=generator)
        self.targets = torch.randint(0, N_CLASSES, (N_SAMPLES,), generator=generator)
        self.inputs = centres[self.targets] + torch.randn(N_SAMPLES, N_INPUTS, generator=generator)
        drawn = torch.randint(0, N_CLASSES, (N_SAMPLES,), generator=generator)
        noisy = torch.rand(N_SAMPLES, generator=generator) < label_noise
        self.targets = torch.where(noisy, drawn, self.targets)
        torch.manual_seed(seed)
        self.model = _rectifiers(normalised)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.loader = DataLoader(TensorDataset(self.inputs, self.targets), batch_size=BATCH, shuffle=True)
        self.lrs: list[float] = []
        """The LR of every step, those that were rolled back included."""
        self.dies = False
        """Whether a high LR kills the network."""

    @property
    def steps(self) -> int:
        return len(self.lrs)

    def update(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """One step."""
        loss = functional.cross_entropy(self.model(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lrs.append(self.optimizer.param_groups[0]["lr"])
        if self.dies and min(self.lrs[-SURVIVED_STEPS - 1 :]) > SURVIVED_LR and self.steps > SURVIVED_STEPS:
            self._die()
        return loss.detach()

    def _die(self) -> None:
        *hidden, _ = (module for module in self.model.modules() if isinstance(module, nn.Linear))
        with torch.no_grad():
            for layer in hidden:
                layer.bias.fill_(-1e3)

    def loss(self) -> float:
        """Over a quarter of the data."""
        self.model.eval()
        with torch.no_grad():
            return functional.cross_entropy(self.model(self.inputs[:512]), self.targets[:512]).item()

    def tuner(self, transport: GrpcTransport, bounds: tuple[float, float], **arguments: Any) -> Tuner:
        """Opens its job."""
        self.dies = bounds == DEADLY
        return Tuner(
            self.model,
            self.optimizer,
            transport=transport,
            total_steps=TOTAL,
            lr_bounds=bounds,
            policy="budget",
            policy_options=OPTIONS,
            validate=self.loss,
            **arguments,
        )

    def train(self, tuner: Tuner, after_step: Callable[[], object] = lambda: None) -> None:
        """To the end."""
        for batch in tuner.batches(self.loader):
            tuner.step(self.update(batch))
            after_step()
        tuner.close()

    def everything(self) -> dict[str, list[float]]:
        """All weights."""
        return {name: value.flatten().tolist() for name, value in self.model.state_dict().items()}


def _rectifiers(normalised: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(DEPTH + 1):
        linear = nn.Linear(WIDTH if i else N_INPUTS, WIDTH)
        nn.init.kaiming_normal_(linear.weight)
        layers += [linear, *([nn.BatchNorm1d(WIDTH)] if normalised else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, N_CLASSES))


class Unheld(GrpcTransport):
    """Keeps from its client what was promised."""

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        response = super().create_job(request, timeout_s)
        del response.directive.promise[:]
        return response

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        response = super().advance(request, timeout_s)
        del response.directive.promise[:]
        return response


class Watched(GrpcTransport):
    """Something happens before a report leaves."""

    def __init__(self, target: str, before: Callable[[pb.Report], None]) -> None:
        super().__init__(target)
        self._before = before

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._before(request.report)
        return super().advance(request, timeout_s)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(f"sqlite:///{tmp_path_factory.mktemp('promise')}/jobs.db") as server:
        yield server


@pytest.fixture(scope="module")
def died(server: ServerProcess) -> Callable[[int], tuple[Run, Tuner]]:
    """A run, by its seed, whose network died and came back, and that nothing else happened to."""

    @functools.cache
    def trained(seed: int) -> tuple[Run, Tuner]:
        run = Run(seed)
        tuner = run.tuner(GrpcTransport(server.target), DEADLY)
        run.train(tuner)
        return run, tuner

    return trained


def stored(server: ServerProcess, tuner: Tuner) -> pb.GetScheduleResponse:
    request = pb.GetScheduleRequest(job_id=tuner.job_id, view=pb.SCHEDULE_VIEW_FULL)
    return server.stub.GetSchedule(request, timeout=10)


def outcomes(response: pb.GetScheduleResponse) -> list[pb.Outcome.ValueType]:
    return [entry.report.outcome for entry in response.history if entry.HasField("report")]


# --- a network that dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_that_died_in_committed_steps_comes_back_and_ends_well(
    server: ServerProcess, died: Callable[[int], tuple[Run, Tuner]], seed: int
) -> None:
    """The same run without a promise stays at chance to its end."""
    unheld = Run(seed)
    tuner = unheld.tuner(Unheld(server.target), DEADLY)
    unheld.train(tuner)
    assert unheld.loss() == pytest.approx(CHANCE, abs=0.1)
    assert pb.OUTCOME_FELL_SHORT not in outcomes(stored(server, tuner))

    held, _ = died(seed)
    assert held.loss() < CHANCE / 2
    assert held.steps == unheld.steps == TOTAL


@pytest.mark.parametrize("seed", SEEDS)
def test_the_evidence_of_a_setback_is_stored_and_both_sides_have_the_same_books(
    server: ServerProcess, died: Callable[[int], tuple[Run, Tuner]], seed: int
) -> None:
    _, tuner = died(seed)
    response = stored(server, tuner)
    short = [i for i, entry in enumerate(response.history) if entry.report.outcome == pb.OUTCOME_FELL_SHORT]
    assert short
    for i in short:
        report, decision = response.history[i].report, response.history[i + 1].decision
        setback = decision.setback
        median = statistics.median(report.losses)
        assert setback.loss == (report.validations[-1].loss if setback.validated else median)
        assert setback.start_loss - setback.gain < setback.bar < setback.loss
        assert decision.lr == pytest.approx(setback.lr / math.sqrt(10))
        assert not response.history[i].committed
        assert response.history[i + 1].directive.restore
    job = response.job
    probed = sum(len(entry.report.losses) for entry in response.history if entry.directive.phase == pb.PHASE_PROBE)
    assert job.given_back_steps > 0
    assert job.search_steps == probed + job.given_back_steps == tuner.search_steps
    assert job.committed_steps == tuner.committed_step == TOTAL - tuner.search_steps
    assert lrpilot.Schedule.from_response(response, tuner.schedule.base_lrs) == tuner.schedule


def test_the_schedule_of_a_run_with_a_setback_replays_without_a_server(
    died: Callable[[int], tuple[Run, Tuner]], tmp_path: Path
) -> None:
    """It has the LRs of the steps that stayed, and nothing of those that were rolled back."""
    run, tuner = died(SEEDS[0])
    tuner.schedule.save(tmp_path / "schedule.json")
    schedule = lrpilot.Schedule.load(tmp_path / "schedule.json")
    assert schedule == tuner.schedule
    replay = Run(SEEDS[0])
    scheduler = schedule.scheduler(replay.optimizer)
    while replay.steps < schedule.n_steps:
        for batch in replay.loader:
            replay.update(batch)
            scheduler.step()
            if replay.steps == schedule.n_steps:
                break
    assert replay.lrs == run.lrs[-schedule.n_steps :]
    assert max(replay.lrs) < max(run.lrs) / 2
    assert replay.loss() < CHANCE / 2


def test_the_history_of_a_run_with_a_setback_decides_the_same_again(
    server: ServerProcess, died: Callable[[int], tuple[Run, Tuner]]
) -> None:
    response = stored(server, died(SEEDS[0])[1])
    transition = machine.create(config_from_pb(response.job.config))
    for entry in response.history:
        assert directive_to_pb(transition.directive) == entry.directive
        if entry.HasField("report"):
            transition = machine.advance(transition.state, report_from_pb(entry.report))
    assert transition.state.given_back_steps == response.job.given_back_steps


# --- a run that loses what it had learnt ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [3, 4])
def test_a_run_that_learns_in_its_warm_up_and_loses_that_at_its_peak_comes_back(
    server: ServerProcess, seed: int
) -> None:
    """Batches of eight, too few for a probe of 20 steps: it promises no more than the ruined run still has."""
    setting = next(setting for setting in SETTINGS if setting.value == 8)
    finals = []
    for transport in (GrpcTransport(server.target), Unheld(server.target)):
        training = Training.begin(setting, GUESS, seed)
        tuner = Tuner(
            training.model,
            training.optimizer,
            transport=transport,
            total_steps=4000,
            validate=training.validate,
            seed=seed,
        )
        for batch in tuner.batches(training.loader):
            tuner.step(training.update(batch))
        tuner.close()
        finals.append(training.validate())
        setbacks = [entry.decision.setback for entry in stored(server, tuner).history]
        reached = [setback for setback in setbacks if setback.HasField("reached")]
        if isinstance(transport, Unheld):
            assert not reached
        else:
            assert reached
            assert all(setback.reached < setback.bar < setback.loss for setback in reached)
    assert finals[0] < finals[1] / 3


# --- a sound run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_run_on_noisy_labels_is_left_alone(server: ServerProcess, seed: int) -> None:
    """Two labels in five are drawn at random, and the run comes out as without a promise."""
    finals = []
    for transport in (GrpcTransport(server.target), Unheld(server.target)):
        run = Run(seed, normalised=True, label_noise=0.4)
        tuner = run.tuner(transport, BOUNDS)
        run.train(tuner)
        response = stored(server, tuner)
        assert any(entry.directive.promise for entry in response.history)
        assert not any(entry.decision.HasField("setback") for entry in response.history)
        assert response.job.given_back_steps == 0
        finals.append(run.everything())
    assert finals[0] == finals[1]


# --- a server that is away just then, a process that dies -------------------------------------------------------------


def test_a_network_that_fails_at_a_broken_promise_changes_nothing(
    server: ServerProcess, died: Callable[[int], tuple[Run, Tuner]]
) -> None:
    expected, undisturbed = died(SEEDS[0])
    failures = 0

    def before(report: pb.Report) -> None:
        nonlocal failures
        if report.outcome == pb.OUTCOME_FELL_SHORT and not failures:
            failures += 1
            proxy.fail(Refuse(), 0.3)

    with Proxy(server.target) as proxy:
        run = Run(SEEDS[0])
        tuner = run.tuner(Watched(proxy.target, before), DEADLY, timeout_s=60.0)
        run.train(tuner)
    assert failures == 1
    assert run.everything() == expected.everything()
    assert tuner.schedule.losses == undisturbed.schedule.losses
    assert tuner.schedule.segments == undisturbed.schedule.segments


@pytest.mark.parametrize("from_first", [True, False], ids=["from the first committed steps on", "at the report"])
def test_a_run_goes_back_also_while_its_server_is_away_and_tells_it_later(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, from_first: bool
) -> None:
    """The client holds itself to the bars; when the server is back, it does not lead to the LR that had failed."""
    monkeypatch.setattr("lrpilot.session.session.LOOK_PAUSE_FACTOR", 0)
    away, told = False, 0

    def before(report: pb.Report) -> None:
        nonlocal away, told
        begins = pb.OUTCOME_PARTIAL if from_first else pb.OUTCOME_FELL_SHORT
        if not told and (away or report.outcome == begins):
            away = True
            # Until the client has trained alone for a while, after it went back.
            if tuner.phase == "train" and tuner.stage == 0 and tuner.committed_step >= 60:
                away, told = False, 1
                return
            raise UnavailableError("away", "UNAVAILABLE")

    run = Run(SEEDS[0])
    tuner = run.tuner(Watched(server.target, before), DEADLY, timeout_s=0.2)
    run.train(tuner)
    response = stored(server, tuner)
    found = outcomes(response)
    assert told == 1
    assert found.index(pb.OUTCOME_FELL_SHORT) + 1 == found.index(pb.OUTCOME_REPLACED)
    short, joined = (response.history[found.index(outcome)] for outcome in (pb.OUTCOME_FELL_SHORT, pb.OUTCOME_REPLACED))
    after = response.history[found.index(pb.OUTCOME_REPLACED) + 1]
    assert not short.committed
    assert joined.committed
    assert after.directive.profile.start_lr < short.directive.profile.start_lr / 2
    assert run.steps == TOTAL == tuner.committed_step + tuner.search_steps
    assert (response.job.committed_steps, response.job.search_steps) == (tuner.committed_step, tuner.search_steps)
    assert run.loss() < CHANCE / 2


@pytest.mark.parametrize("after_setback", [-20, 0, 1, 25, 120])
def test_a_run_resumed_around_a_setback_ends_as_if_it_had_not_been_interrupted(
    server: ServerProcess, died: Callable[[int], tuple[Run, Tuner]], tmp_path: Path, after_setback: int
) -> None:
    """Before it, in the report that falls short, and between it and the end."""
    seed = SEEDS[0]
    expected, undisturbed = died(seed)
    history = stored(server, undisturbed).history
    short = next(i for i, entry in enumerate(history) if entry.report.outcome == pb.OUTCOME_FELL_SHORT)
    stop = sum(len(entry.report.losses) for entry in history[: short + 1]) + after_setback

    first = Run(seed)
    tuner = first.tuner(GrpcTransport(server.target), DEADLY)
    for batch in tuner.batches(first.loader):
        tuner.step(first.update(batch))
        if first.steps == stop:
            parts = (first.model, first.optimizer, tuner)
            torch.save([copy.deepcopy(part.state_dict()) for part in parts], tmp_path / "checkpoint.pt")
        if first.steps == stop + 40:
            break

    second = Run(seed=99)  # other weights, other random numbers: all must come from the checkpoint
    tuner = second.tuner(GrpcTransport(server.target), DEADLY)
    model, optimizer, session = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    second.model.load_state_dict(model)
    second.optimizer.load_state_dict(optimizer)
    tuner.load_state_dict(session)
    second.train(tuner)

    assert second.everything() == expected.everything()
    assert tuner.schedule.losses == undisturbed.schedule.losses
    assert tuner.schedule.segments == undisturbed.schedule.segments
    assert stored(server, tuner).job.given_back_steps == stored(server, undisturbed).job.given_back_steps
    assert outcomes(stored(server, tuner)) == outcomes(stored(server, undisturbed))
