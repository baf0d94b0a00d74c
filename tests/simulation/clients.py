"""Those who talk to servers: trainings with the library's session, trainings that send what they like, operators."""

from __future__ import annotations

import copy
import dataclasses
import random
from typing import Any

from lrpilot.errors import ServerError
from lrpilot.session.run_state import RunState
from lrpilot.session.session import Session
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import committed

from tests.simulation.checker import WHOLE
from tests.simulation.network import Network, SimulatedRpcError, SimulatedTransport
from tests.simulation.world import Task
from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers import wire_client
from tuner_server.core.config import JobConfig
from tuner_server.core.messages import ChangeKind, Directive, Outcome, Phase, PlanChange, Report
from tuner_server.rpc import plan_messages
from tuner_server.rpc.convert import config_to_pb, directive_from_pb

PATIENCE_S = 4.0
"""How long a training waits for a decision."""
ATTEMPT_S = 5.0
"""How long a client of its own kind waits for one answer."""
AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}


@dataclasses.dataclass(frozen=True, slots=True)
class Habits:
    """How often clients do what is not usual, at a report."""

    repeats: float = 0.0
    """Sends an earlier report again."""
    contradicts: float = 0.0
    """Sends an earlier report with another content, or one with a wrong number."""
    goes_back: float = 0.0
    """Begins again at an earlier directive."""
    lives_on: float = 0.0
    """Begins again from a checkpoint while its former life goes on."""
    asks: float = 0.0
    """Has an operator change its plan."""
    cancels: float = 0.0
    leaves: float = 0.0
    looks: float = 0.0
    changes_itself: float = 0.0
    """Changes its plan by itself."""


@dataclasses.dataclass(slots=True)
class Counts:
    """What there was of clients."""

    jobs: int = 0
    lives: int = 0
    reports: int = 0


def copied(training: SimulatedTraining) -> SimulatedTraining:
    """The training as a checkpoint has it."""
    again = copy.copy(training)
    again.lrs = list(training.lrs)
    return again


def training_of(config: JobConfig) -> SimulatedTraining:
    """The training of a job."""
    return SimulatedTraining(config.seed, validates=config.has_validation)


def drawn_change(chance: random.Random, names: list[str]) -> pb.PlanChange:
    """A change of the plan, some with a name that came before."""
    change: dict[str, Any] = chance.choice(
        (
            {"kind": ChangeKind.EXTEND, "later_steps": 20},
            {"kind": ChangeKind.ANNEAL, "anneal_steps": 15},
            {"kind": ChangeKind.REPLAN},
        )
    )
    name = "" if chance.random() < 0.3 else chance.choice([*names[-2:], f"request {len(names)}"])
    if name:
        names.append(name)
    return plan_messages.change_to_pb(PlanChange(**change, request_id=name))


class Talker:
    """A client that asks by itself, and repeats until it is answered."""

    def __init__(self, network: Network, name: str, counts: Counts, habits: Habits) -> None:
        self.network, self.world, self.name = network, network.world, name
        self.counts, self.habits = counts, habits
        self.chance = network.world.chance
        self.spawned: list[Task] = []
        """Its lives beside the first, which the history waits for, too."""

    def ask(self, method: str, request: Any) -> Any:
        """Asks until there is an answer; None: it was refused."""
        while True:
            answer, code = self.ask_once(method, request)
            if code not in AWAY:
                return answer
            self.world.sleep(self.chance.uniform(0.05, 0.5))

    def ask_once(self, method: str, request: Any) -> tuple[Any, str]:
        """Asks once: the answer, and the status of a refusal."""
        try:
            return self.network.call(self.name, method, request, timeout=ATTEMPT_S), ""
        except SimulatedRpcError as error:
            return None, error.code().name

    def sometimes(self, likelihood: float) -> bool:
        """Chance decides."""
        return likelihood > 0 and self.chance.random() < likelihood


class FreeClient(Talker):
    """A training that sends what it likes, right and wrong, and goes back when it likes."""

    def __init__(self, network: Network, name: str, counts: Counts, habits: Habits, config: JobConfig) -> None:
        super().__init__(network, name, counts, habits)
        self._config = config
        self._reports: list[pb.Report] = []
        self._past: list[tuple[int, SimulatedTraining]] = []
        self._names: list[str] = []
        self.most_reports = 24
        """It leaves after so many."""

    def run(self) -> None:
        """Has a job, from its creation on until it has ended or is left."""
        self.counts.jobs += 1
        request = pb.CreateJobRequest(request_id=str(self.world.uuid4()), config=config_to_pb(self._config))
        created = self.ask("CreateJob", request)
        if created is None:
            return
        self._job_id = created.job.id
        self.live(directive_from_pb(created.directive), training_of(self._config), "")
        if self.sometimes(self.habits.repeats):
            self.ask_once("CreateJob", request)
        if self.sometimes(self.habits.contradicts):
            other = config_to_pb(self._config.model_copy(update={"seed": 77}))
            self.ask_once("CreateJob", pb.CreateJobRequest(request_id=request.request_id, config=other))

    def live(self, directive: Directive | None, training: SimulatedTraining, resume_id: str) -> None:
        """Carries out directives, from this one on."""
        self.counts.lives += 1
        while directive is not None and directive.phase is not Phase.STOP and len(self._reports) < self.most_reports:
            self._past.append((directive.number, copied(training)))
            self.world.sleep(self.chance.expovariate(20))
            if self.sometimes(self.habits.lives_on):
                self._double()
            directive = self._report(directive, training, resume_id)
            self._misbehave(resume_id)
            if self.sometimes(self.habits.goes_back):
                directive, training, resume_id = self._back()

    def _report(self, directive: Directive, training: SimulatedTraining, resume_id: str) -> Directive | None:
        report = wire_client.report_to_pb(training.run(directive))
        if self.sometimes(self.habits.changes_itself) and directive.phase.committed:
            report.outcome = pb.OUTCOME_REPLANNED
            report.ClearField("ending")
            report.change.CopyFrom(plan_messages.change_to_pb(PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=12)))
        report.wall_time_s += self.counts.lives / 64  # no two lives are equal in time
        self._reports.append(report)
        self.counts.reports += 1
        request = pb.AdvanceRequest(job_id=self._job_id, report=report, resume_id=resume_id)
        answer = self.ask("Advance", request)
        return None if answer is None else directive_from_pb(answer.directive)

    def _back(self) -> tuple[Directive | None, SimulatedTraining, str]:
        number, training = self.chance.choice(self._past)
        # Some tell no name, as whoever reads the contract by himself may.
        resume_id = "" if self.chance.random() < 0.2 else str(self.world.uuid4())
        request = pb.ResumeJobRequest(job_id=self._job_id, directive_number=number, resume_id=resume_id)
        answer = self.ask("ResumeJob", request)
        directive = None if answer is None else directive_from_pb(answer.directive)
        return directive, copied(training), resume_id

    def _double(self) -> None:
        """Another process goes on from a checkpoint, and this one does not know of it."""

        def live() -> None:
            self.live(*self._back())

        self.world.fault("a former life that goes on", self.name)
        self.spawned.append(self.world.spawn(live))

    def _misbehave(self, resume_id: str) -> None:
        job_id, chance = self._job_id, self.chance
        if self.sometimes(self.habits.repeats):
            report = chance.choice(self._reports)
            self.ask_once("Advance", pb.AdvanceRequest(job_id=job_id, report=report, resume_id=resume_id))
        if self.sometimes(self.habits.contradicts):
            report = pb.Report.FromString(chance.choice(self._reports).SerializeToString())
            if chance.random() < 0.5:
                report.wall_time_s += 1.0
            else:
                report.directive_number = chance.choice((0, report.directive_number + 1, 99))
            self.world.fault("contradiction", self.name)
            told = chance.choice((resume_id, resume_id, "nobody's"))
            self.ask_once("Advance", pb.AdvanceRequest(job_id=job_id, report=report, resume_id=told))
            number = chance.choice((0, 98, 99))
            self.ask_once("ResumeJob", pb.ResumeJobRequest(job_id=job_id, directive_number=number))
        if self.sometimes(self.habits.asks):
            change = drawn_change(chance, self._names)
            for _ in range(chance.choice((1, 1, 2))):
                self.ask_once("ChangePlan", pb.ChangePlanRequest(job_id=job_id, change=change))
        if self.sometimes(self.habits.leaves):
            self.ask_once("LeaveJob", pb.LeaveJobRequest(job_id=job_id, resume_id=resume_id))
        if self.sometimes(self.habits.looks):
            self.ask_once("GetJob", pb.GetJobRequest(job_id=job_id))
        if self.sometimes(self.habits.cancels):
            self.ask_once("CancelJob", pb.CancelJobRequest(job_id=job_id, reason="enough"))


class SessionClient(Talker):
    """A training with the library's own session, which must come to its end whatever happens."""

    def __init__(self, network: Network, name: str, counts: Counts, habits: Habits, config: JobConfig) -> None:
        super().__init__(network, name, counts, habits)
        self._config = config
        self._session = self._new_session()
        self._training = training_of(config)
        self._total = config.total_steps
        self._lr, self._peak, self._warm, self._held = config.base_lr or 0.1, 0.0, False, False

    def _new_session(self) -> Session:
        transport = SimulatedTransport(self.network, self.name)
        return Session(transport, config_to_pb(self._config), PATIENCE_S, strict=False)

    @property
    def _run_state(self) -> RunState:
        remaining = None if self._total is None else self._total - self._training.n_run
        return RunState(self._lr, remaining, self._warm, self._held, self._training.n_run, self._peak)

    def run(self) -> None:
        """Trains to the end."""
        self.counts.jobs += 1
        try:
            self._train(self._session.open(self._run_state))
        except ServerError as error:
            self.network.history.complain("no failure of a server ends a training", f"{self.name}: {error!r}")

    def _train(self, directive: pb.Directive) -> None:
        self.counts.lives += 1
        while directive.phase != pb.PHASE_STOP:
            self.world.sleep(self.chance.expovariate(20))
            report = wire_client.report_to_pb(self._carry_out(directive))
            self.counts.reports += 1
            directive = self._session.answer(directive, report, self._run_state)
            if directive.HasField("change"):
                change = directive.change
                self._total = change.total_steps if change.HasField("total_steps") else None
            self._look_around()
            if self.sometimes(self.habits.goes_back):
                directive = self._from_checkpoint(directive)
        self._session.close()
        if self._total is not None and self._training.n_run != self._total:
            self.network.history.complain(WHOLE, f"{self.name} made {self._training.n_run} of {self._total}")

    def _carry_out(self, directive: pb.Directive) -> Report:
        before = self._training.n_run
        report = self._training.run(directive_from_pb(directive))
        self._held = self._held or directive.snapshot
        if self._training.lrs and committed(directive):
            self._lr = self._training.lrs[-1]
            self._warm = self._warm or self._training.n_run > before
            self._peak = max(self._peak, self._lr)
        if report.outcome is Outcome.PARTIAL and not committed(directive):
            raise AssertionError("probes are not reported in parts")
        return report

    def _look_around(self) -> None:
        job_id = self._session.job_id
        if job_id and self.sometimes(self.habits.looks):
            self.ask_once("GetJob", pb.GetJobRequest(job_id=job_id))
        if job_id and self._total is not None and self.sometimes(self.habits.asks):
            change = drawn_change(self.chance, [f"of {self.name}"])
            self.ask_once("ChangePlan", pb.ChangePlanRequest(job_id=job_id, change=change))

    def _from_checkpoint(self, directive: pb.Directive) -> pb.Directive:
        """Another process goes on where this one is, after this one did a little more."""
        kept = self._session.state_dict(), copied(self._training), directive
        former = self._session
        self.world.fault("training that begins again from a checkpoint", self.name)
        if directive.phase != pb.PHASE_STOP and self.chance.random() < 0.7:
            ahead = wire_client.report_to_pb(copied(self._training).run(directive_from_pb(directive)))
            ahead.wall_time_s += self.counts.lives / 64
            former.answer(directive, ahead, self._run_state)
        former.close()
        self.counts.lives += 1
        state, self._training, directive = kept
        self._session = self._new_session()
        self._session.load_state_dict(state)
        return directive
