"""Networks, servers and clients that fail: the schedule comes out as if they had not, and the run always ends.

A real training run, a real server process, and a real TCP proxy between them.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import lrpilot
import pytest
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.servers.faulty_proxy import (
    BlackHole,
    Cut,
    Delay,
    Direction,
    Drop,
    Fault,
    Proxy,
    Refuse,
    Reset,
    Stall,
)
from tests.support.servers.server_process import ServerProcess, running
from tests.support.training import torch_processes
from tests.support.training.disturbed_training import (
    TIMEOUT_S,
    TOTAL_STEPS,
    Death,
    LastMoment,
    Outcome,
    Training,
    live,
)

POLICIES = ["budget", "autolrs"]
FAULT_S = 0.4
FAULTS: dict[str, Fault] = {
    "refuse": Refuse(),
    "drop": Drop(),
    "reset": Reset(),
    "delay": Delay(0.1),
    "stall": Stall(),
    "black_hole": BlackHole(),
    "cut_request": Cut(Direction.REQUESTS, 20),
    "cut_answer": Cut(Direction.ANSWERS, 20),
}
MIDDLE = 2
"""A step within any directive of these runs, also within a probe that diverges."""
GONE_TIMEOUT_S = 1.5

FromPolicy = Callable[[str], "Undisturbed"]
Trouble = Callable[[], "Future[None]"]
"""Begins at once; the future is done when it is over."""


class Moment(enum.Enum):
    """When trouble begins in the course of a directive."""

    WITHIN = enum.auto()
    """In the middle of its steps; they go on meanwhile."""
    WITHIN_ALONE = enum.auto()
    """In the middle of its steps, and it is over when they go on."""
    BEFORE_REPORT = enum.auto()
    BEFORE_ANSWER = enum.auto()
    """The server has advanced the job, and the client doesn't know."""


class WatchedTransport(GrpcTransport):
    """A connection on which something happens before a report leaves. `number` is that of the last directive."""

    def __init__(self, target: str, before: Callable[[pb.AdvanceRequest], None] = lambda _: None) -> None:
        super().__init__(target)
        self._before = before
        self.number = 0

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        response = super().create_job(request, timeout_s)
        self.number = response.directive.number
        return response

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self._before(request)
        response = super().advance(request, timeout_s)
        self.number = response.directive.number
        return response


@dataclasses.dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run that nothing happens to. `starts`: after how many steps each directive begins, by its number."""

    outcome: Outcome
    starts: Mapping[int, int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(f"sqlite:///{tmp_path_factory.mktemp('faults')}/jobs.db") as server:
        yield server


@pytest.fixture(autouse=True)
def gives_a_dead_connection_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """These faults last less than a client waits for an answer that was lost."""
    monkeypatch.setattr("lrpilot.transport.grpc_transport.ATTEMPT_S", 2 * FAULT_S)


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    with Proxy(server.target) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def undisturbed(server: ServerProcess) -> FromPolicy:
    """By policy."""

    @functools.cache
    def run(policy: str) -> Undisturbed:
        training, transport = Training(), WatchedTransport(server.target)
        starts = {1: 0}
        with training.tuner(policy, transport) as tuner:
            outcome = training.run(tuner, lambda: starts.setdefault(transport.number, training.n_steps))
        del starts[transport.number]  # the stop
        assert outcome.n_steps == TOTAL_STEPS[policy]
        return Undisturbed(outcome, starts)

    return run


class Disturbance:
    """Makes trouble in a run, once in each directive of the plan."""

    def __init__(
        self,
        server: ServerProcess,
        proxy: Proxy,
        trouble: Trouble,
        plan: Mapping[int, Moment],
        starts: Mapping[int, int],
    ) -> None:
        self._server, self._proxy, self._trouble = server, proxy, trouble
        self._at_step = {
            starts[number] + MIDDLE: moment
            for number, moment in plan.items()
            if moment in (Moment.WITHIN, Moment.WITHIN_ALONE)
        }
        self._at_report = {
            number: moment for number, moment in plan.items() if moment in (Moment.BEFORE_REPORT, Moment.BEFORE_ANSWER)
        }
        self._over: Future[None] = Future()
        self._over.set_result(None)
        self._pool = ThreadPoolExecutor(1)
        self._transport = WatchedTransport(proxy.target, self._before_report)

    def train(self, policy: str) -> tuple[Outcome, str]:
        """A whole run: what it came to, and its job's id."""
        training = Training()
        with training.tuner(policy, self._transport) as tuner:
            outcome = training.run(tuner, lambda: self._after_step(training.n_steps))
        self._over.result(TIMEOUT_S)
        self._pool.shutdown()
        assert not self._at_step
        assert not self._at_report
        return outcome, tuner.job_id

    def _after_step(self, n_steps: int) -> None:
        moment = self._at_step.pop(n_steps, None)
        if moment is None:
            return
        self._over.result(TIMEOUT_S)
        self._over = self._trouble()
        if moment is Moment.WITHIN_ALONE:
            self._over.result(TIMEOUT_S)

    def _before_report(self, request: pb.AdvanceRequest) -> None:
        moment = self._at_report.pop(request.report.directive_number, None)
        if moment is None:
            return
        self._over.result(TIMEOUT_S)
        if moment is Moment.BEFORE_REPORT:
            self._over = self._trouble()
        else:
            # The answer stays on its way until the trouble begins, which then meets it. So would a connection that is
            # still to be made.
            self._transport.stub.GetJob(pb.GetJobRequest(job_id=request.job_id), timeout=TIMEOUT_S, wait_for_ready=True)
            self._proxy.begin(Stall(frozenset({Direction.ANSWERS})))
            self._over = self._pool.submit(self._once_it_has_arrived, request)

    def _once_it_has_arrived(self, request: pb.AdvanceRequest) -> None:
        look = pb.GetJobRequest(job_id=request.job_id)
        deadline = time.monotonic() + TIMEOUT_S
        try:
            while self._outstanding(look) <= request.report.directive_number:
                assert time.monotonic() < deadline, "the report did not arrive"
        except BaseException:
            self._proxy.end()
            raise
        self._trouble().result(TIMEOUT_S)

    def _outstanding(self, look: pb.GetJobRequest) -> int:
        return self._server.stub.GetJob(look, timeout=TIMEOUT_S, wait_for_ready=True).job.directive.number


def stored_schedule(server: ServerProcess, job_id: str, base_lrs: tuple[float, ...]) -> lrpilot.Schedule:
    """What the server has of a job that has come to its end."""
    request = pb.GetScheduleRequest(job_id=job_id, view=pb.SCHEDULE_VIEW_FULL)
    response = server.stub.GetSchedule(request, timeout=TIMEOUT_S, wait_for_ready=True)
    assert response.job.state == pb.JOB_STATE_FINISHED
    return dataclasses.replace(lrpilot.Schedule.from_response(response, base_lrs), job_id="")


def assert_changes_nothing(disturbance: Disturbance, policy: str, expected: Outcome, server: ServerProcess) -> None:
    """The run comes out the same, and the server has the same of it."""
    outcome, job_id = disturbance.train(policy)
    assert outcome == expected
    assert stored_schedule(server, job_id, outcome.schedule.base_lrs) == expected.schedule


# --- a network that fails for a while ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "moment"), [(3, Moment.BEFORE_ANSWER), (7, Moment.WITHIN)], ids=["in the search", "in committed steps"]
)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_that_fails_for_a_while_changes_nothing(
    server: ServerProcess, proxy: Proxy, undisturbed: FromPolicy, fault: str, number: int, moment: Moment
) -> None:
    expected = undisturbed("budget")
    trouble = functools.partial(proxy.fail, FAULTS[fault], FAULT_S)
    disturbance = Disturbance(server, proxy, trouble, {number: moment}, expected.starts)
    assert_changes_nothing(disturbance, "budget", expected.outcome, server)


@pytest.mark.slow
@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_network_that_fails_in_every_directive_changes_nothing(
    server: ServerProcess, proxy: Proxy, undisturbed: FromPolicy, policy: str, fault: str, moment: Moment
) -> None:
    expected = undisturbed(policy)
    trouble = functools.partial(proxy.fail, FAULTS[fault], FAULT_S)
    disturbance = Disturbance(server, proxy, trouble, dict.fromkeys(expected.starts, moment), expected.starts)
    assert_changes_nothing(disturbance, policy, expected.outcome, server)


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", range(1, 240, 7))
@pytest.mark.parametrize("direction", Direction)
def test_a_connection_may_be_cut_anywhere(
    server: ServerProcess, proxy: Proxy, undisturbed: FromPolicy, direction: Direction, n_bytes: int
) -> None:
    expected = undisturbed("budget")
    trouble = functools.partial(proxy.fail, Cut(direction, n_bytes), 0.1)
    plan = {3: Moment.BEFORE_REPORT, 4: Moment.BEFORE_ANSWER}
    disturbance = Disturbance(server, proxy, trouble, plan, expected.starts)
    assert_changes_nothing(disturbance, "budget", expected.outcome, server)


# --- a server that is killed ------------------------------------------------------------------------------------------


def killing(server: ServerProcess, proxy: Proxy, pool: ThreadPoolExecutor, delay_s: float = 0.0) -> Trouble:
    """Kills a server, after a while, and starts it again."""

    def kill_and_restart() -> None:
        time.sleep(delay_s)
        server.kill()
        # What was on its way died with it.
        proxy.begin(Drop())
        server.restart()
        proxy.end()

    def trouble() -> Future[None]:
        return pool.submit(kill_and_restart)

    return trouble


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_a_server_that_is_killed_changes_nothing(
    server: ServerProcess, proxy: Proxy, pool: ThreadPoolExecutor, undisturbed: FromPolicy
) -> None:
    expected = undisturbed("budget")
    plan = {3: Moment.BEFORE_ANSWER, 6: Moment.WITHIN}
    disturbance = Disturbance(server, proxy, killing(server, proxy, pool), plan, expected.starts)
    assert_changes_nothing(disturbance, "budget", expected.outcome, server)


@pytest.mark.slow
@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_that_is_killed_in_every_directive_changes_nothing(
    server: ServerProcess, proxy: Proxy, pool: ThreadPoolExecutor, undisturbed: FromPolicy, policy: str, moment: Moment
) -> None:
    expected = undisturbed(policy)
    plan = dict.fromkeys(expected.starts, moment)
    disturbance = Disturbance(server, proxy, killing(server, proxy, pool), plan, expected.starts)
    assert_changes_nothing(disturbance, policy, expected.outcome, server)


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.001, 0.003, 0.01, 0.03])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_server_that_is_killed_while_it_decides_changes_nothing(
    server: ServerProcess, proxy: Proxy, pool: ThreadPoolExecutor, undisturbed: FromPolicy, policy: str, delay_s: float
) -> None:
    expected = undisturbed(policy)
    plan = dict.fromkeys(expected.starts, Moment.BEFORE_REPORT)
    disturbance = Disturbance(server, proxy, killing(server, proxy, pool, delay_s), plan, expected.starts)
    assert_changes_nothing(disturbance, policy, expected.outcome, server)


# --- a client that is killed ------------------------------------------------------------------------------------------


def assert_survives(
    deaths: list[Death],
    policy: str,
    expected: Outcome,
    server: ServerProcess,
    directory: Path,
) -> None:
    """A run of several lives, which end so and then in peace, comes out as one of a single life."""
    context = torch_processes.context()
    for death in [*deaths, None]:
        process = context.Process(target=live, args=(policy, server.target, directory, death))
        process.start()
        process.join()
        assert process.exitcode == (0 if death is None else -signal.SIGKILL), death
    assert pickle.loads((directory / "outcome.pickle").read_bytes()) == expected


def test_a_client_that_is_killed_goes_on_from_its_checkpoint(
    server: ServerProcess, undisturbed: FromPolicy, tmp_path: Path
) -> None:
    expected = undisturbed("budget")
    deaths = [
        Death(LastMoment.AFTER_STEP, 4),  # before there is a checkpoint
        Death(LastMoment.AFTER_STEP, 17),  # in a probe
        Death(LastMoment.AFTER_REPORT, 2),
        Death(LastMoment.AFTER_STEP, expected.starts[5]),  # between two probes
        Death(LastMoment.SAVING_AFTER_STEP, 49),
        Death(LastMoment.BEFORE_REPORT, 7),
        Death(LastMoment.AFTER_STEP, 180),  # in committed steps
        Death(LastMoment.AFTER_REPORT, max(expected.starts)),
    ]
    assert_survives(deaths, "budget", expected.outcome, server, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_client_may_be_killed_after_any_step(
    server: ServerProcess, undisturbed: FromPolicy, tmp_path: Path, policy: str
) -> None:
    deaths = [Death(LastMoment.AFTER_STEP, n_steps) for n_steps in range(1, TOTAL_STEPS[policy], 5)]
    assert_survives(deaths, policy, undisturbed(policy).outcome, server, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [LastMoment.BEFORE_REPORT, LastMoment.AFTER_REPORT])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_client_may_be_killed_at_any_report(
    server: ServerProcess,
    undisturbed: FromPolicy,
    tmp_path: Path,
    policy: str,
    moment: LastMoment,
) -> None:
    expected = undisturbed(policy)
    deaths = [Death(moment, number) for number in expected.starts]
    assert_survives(deaths, policy, expected.outcome, server, tmp_path)


# --- a server that never comes back -----------------------------------------------------------------------------------


def trained_alone(proxy: Proxy, policy: str, fault: Fault, number: int) -> Outcome:
    """A run whose server goes for good when the report on directive `number` is due."""

    def before(request: pb.AdvanceRequest) -> None:
        if request.report.directive_number == number:
            proxy.begin(fault)

    training = Training()
    with training.tuner(policy, WatchedTransport(proxy.target, before), timeout_s=GONE_TIMEOUT_S) as tuner:
        return training.run(tuner)


@pytest.mark.parametrize("at", [1, 4, -2, -1], ids=["in the search", "its end", "in committed steps", "their end"])
def test_a_run_whose_server_never_comes_back_ends(
    proxy: Proxy, undisturbed: FromPolicy, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    number = list(undisturbed("budget").starts)[at]
    assert trained_alone(proxy, "budget", Refuse(), number).n_steps == TOTAL_STEPS["budget"]
    warnings = [record.msg for record in caplog.records if record.levelname == "WARNING"]
    assert 1 <= len(warnings) == len(set(warnings))  # each thing is said once


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Drop(), Reset(), BlackHole(), Stall(), Cut(Direction.ANSWERS, 20)], ids=repr)
@pytest.mark.parametrize("at", [0, 2, 4, 5, 6, 7, -2, -1])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_ends_however_its_server_went(
    proxy: Proxy, undisturbed: FromPolicy, policy: str, fault: Fault, at: int
) -> None:
    number = list(undisturbed(policy).starts)[at]
    assert trained_alone(proxy, policy, fault, number).n_steps == TOTAL_STEPS[policy]
