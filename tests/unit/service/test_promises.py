"""Short histories, step by step, on two servers that share a database: each is told what the plain reference says."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from lrpilot.v1 import tuner_pb2 as pb

from tests.simulation import reference
from tests.simulation.disk import empty_database
from tests.simulation.reference import ReferenceJob
from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config
from tests.support.servers.wire_client import report_to_pb
from tuner_server.core.errors import TunerError
from tuner_server.core.messages import ChangeKind, PlanChange
from tuner_server.rpc import convert, plan_messages
from tuner_server.rpc.status import code_of
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob, open_storage

PROJECT = "default"
TIMEOUT_S = 30.0
CONFIG = convert.config_from_pb(convert.config_to_pb(config(160, **QUICK)))
"""As it is after the wire."""
CHANGES = (
    PlanChange(kind=ChangeKind.EXTEND, later_steps=20),
    PlanChange(kind=ChangeKind.ANNEAL, anneal_steps=15, request_id="anneal"),
    PlanChange(kind=ChangeKind.REPLAN, request_id="replan"),
)
servers = st.integers(0, 1)
names = st.sampled_from(["", "a", "b"])


class TwoServers(RuleBasedStateMachine):
    """One job, which two servers and the reference take through the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        file = Path(self._directory.name) / "jobs.db"
        file.write_bytes(empty_database())
        self._url = f"sqlite:///{file}"
        self._services = [TunerService(open_storage(self._url)) for _ in range(2)]
        self._job: ReferenceJob = reference.created(CONFIG, None)
        self._id = self._services[0].create_job(PROJECT, "request", CONFIG).id
        self._sent: list[pb.AdvanceRequest] = []

    def teardown(self) -> None:
        for service in self._services:
            service.close()
        self._directory.cleanup()

    @rule(server=servers)
    def repeats_the_creation(self, server: int) -> None:
        request = pb.CreateJobRequest(config=convert.config_to_pb(CONFIG))
        self._same("CreateJob", request, lambda: self._services[server].create_job(PROJECT, "request", CONFIG))

    @rule(server=servers, pace=st.integers(0, 2))
    @precondition(lambda self: self._job.state.directive.n_steps > 0)
    def reports(self, server: int, pace: int) -> None:
        training = SimulatedTraining(pace)
        report = report_to_pb(training.run(self._job.state.directive))
        self._advance(server, pb.AdvanceRequest(report=report, resume_id=self._job.state.resumed_as))

    @rule(server=servers, data=st.data(), resume_id=names, later=st.integers(0, 2))
    @precondition(lambda self: self._sent)
    def reports_again(self, server: int, data: st.DataObject, resume_id: str, later: int) -> None:
        request = pb.AdvanceRequest.FromString(data.draw(st.sampled_from(self._sent)).SerializeToString())
        request.resume_id = resume_id
        request.report.directive_number += later
        self._advance(server, request)

    @rule(server=servers, number=st.integers(0, 8), resume_id=names)
    def goes_back(self, server: int, number: int, resume_id: str) -> None:
        request = pb.ResumeJobRequest(directive_number=number, resume_id=resume_id)
        self._same(
            "ResumeJob", request, lambda: self._services[server].resume_job(PROJECT, self._id, number, resume_id)
        )

    @rule(server=servers, change=st.sampled_from(CHANGES))
    def asks_for_a_change(self, server: int, change: PlanChange) -> None:
        request = pb.ChangePlanRequest(change=plan_messages.change_to_pb(change))
        asked = plan_messages.change_from_pb(request.change, "change")
        self._same("ChangePlan", request, lambda: self._services[server].change_plan(PROJECT, self._id, asked))

    @rule(server=servers)
    def looks(self, server: int) -> None:
        self._same("GetJob", pb.GetJobRequest(), lambda: self._services[server].get_job(PROJECT, self._id))

    @rule(server=servers)
    @precondition(lambda self: len(self._sent) > 4)
    def cancels(self, server: int) -> None:
        request = pb.CancelJobRequest(reason="enough")
        self._same("CancelJob", request, lambda: self._services[server].cancel_job(PROJECT, self._id, "enough"))

    @rule(server=servers)
    def starts_anew(self, server: int) -> None:
        self._services[server].close()
        self._services[server] = TunerService(open_storage(self._url))

    def _advance(self, server: int, request: pb.AdvanceRequest) -> None:
        self._sent.append(request)

        def ask() -> Any:
            report = convert.report_from_pb(request.report)
            return self._services[server].advance(PROJECT, self._id, report, request.resume_id).result(TIMEOUT_S)

        self._same("Advance", request, ask)

    def _same(self, method: str, request: Any, ask: Any) -> None:
        """The server and the reference say the same."""
        step = reference.step(self._job, method, request, reference.digest_of(method, request))
        self._job = step.job
        answer: Any = None
        refused = ""
        try:
            answer = ask()
        except TunerError as error:
            refused = code_of(error).name
        assert refused == step.refused, method
        if refused:
            return
        shown = reference.shown_job(answer) if isinstance(answer, StoredJob) else None
        assert step.shown == (shown or reference.content(convert.directive_to_pb(answer)))


def test_two_servers_keep_the_promises_in_some_histories() -> None:
    _keep_the_promises(5)


@pytest.mark.slow
def test_two_servers_keep_the_promises_in_many_histories() -> None:
    _keep_the_promises(40)


def _keep_the_promises(n_histories: int) -> None:
    settings = hypothesis.settings(
        max_examples=n_histories, stateful_step_count=25, deadline=None, database=None, derandomize=True
    )
    run_state_machine_as_test(TwoServers, settings=settings)
