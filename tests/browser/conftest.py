"""A browser, and servers with jobs in all states."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.browser.chromium import SharedWindows, launch
from tests.support.jobs.sample_jobs import SlowTraining, job_config, left_alone, run_job
from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers import server_process, wire_client
from tests.support.servers.guarded_server import add_project, add_token
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.server_process import ServerProcess
from tuner_server.access.principal import DEFAULT_PROJECT, Scope
from tuner_server.access.records import Limits
from tuner_server.base.clock import utc_now
from tuner_server.core.job.machine import Status
from tuner_server.core.messages import Directive, Phase
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage
from tuner_server.storage.access import open_access

N_WAITING = 30
"""Jobs that have only been opened: more than a page of the list."""
EXPLODES_AT = 2000
"""The step of an exploding training, search included, whose loss is no one's model."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dashboard:
    """A server with jobs."""

    process: ServerProcess
    url: str
    jobs: dict[str, str]
    """Ids by name."""
    tokens: dict[str, str]
    """Empty: it asks for none."""


class RunningJob:
    """A training job that goes on when it is told to, over gRPC as all do."""

    def __init__(
        self, process: ServerProcess, name: str, training: SimulatedTraining | None = None, **options: Any
    ) -> None:
        self._stub = process.stub
        self._training = training or SlowTraining(validates=True)
        created = wire_client.create(self._stub, job_config(name, **options))
        self.id = created.job.id
        self.directive: Directive = wire_client.directive_from_pb(created.directive)

    def report(self, n_reports: int = 1) -> None:
        """Carries out so many directives."""
        for _ in range(n_reports):
            self.directive = wire_client.advance(self._stub, self.id, self._training.run(self.directive))

    def report_until(self, phase: Phase) -> None:
        """Carries out directives until one of that phase is outstanding."""
        while self.directive.phase is not phase:
            self.report()


class ExplodingTraining(SlowTraining):
    """A training of which a batch has a loss that is out of all proportion, once it is committed."""

    def _step(self, lr: float) -> float:
        loss = super()._step(lr)
        self._n_steps = getattr(self, "_n_steps", 0) + 1
        return 1e6 if self._n_steps == EXPLODES_AT else loss


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, contextlib.closing(launch(playwright)) as browser:
        yield browser


@pytest.fixture(scope="session")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('dashboard') / 'jobs.db'}"


@pytest.fixture(scope="session")
def jobs(db: str) -> dict[str, str]:
    """Jobs in a database, by name."""
    with open_storage(db) as storage, TunerService(storage) as service:
        found = {"silent": left_alone(storage, "silent", timedelta(minutes=12))}
        found["abandoned"] = left_alone(storage, "abandoned", timedelta(days=3))
        found |= {
            f"waiting {i:02}": run_job(service, job_config(f"waiting {i:02}"), SlowTraining(), max_reports=0)
            for i in range(N_WAITING)
        }
        for name, policy, reports in (
            ("finished", "budget", 10_000),
            ("twin", "budget", 10_000),
            ("stages", "autolrs", 40),
        ):
            options: dict[str, Any] = {} if policy == "budget" else {"forecaster": "power_law", "final_decay": False}
            training = SlowTraining(len(found), validates=True)
            found[name] = run_job(service, job_config(name, policy, **options), training, reports)
        found["exploding"] = run_job(service, job_config("exploding"), ExplodingTraining(3, validates=True))
        found["failed"] = run_job(service, job_config("failed"), SlowTraining(validates=True), 9)
        failed = storage.load(found["failed"])
        message = "policy budget: ZeroDivisionError: float division by zero"
        state = failed.state.model_copy(update={"status": Status.FAILED, "message": message})
        storage.update(failed, state, utc_now())
    return found


@contextlib.contextmanager
def _serving(db: str, jobs: dict[str, str], tokens: dict[str, str], *arguments: str) -> Iterator[Dashboard]:
    http = f"{HOST}:{free_port()}"
    with server_process.running(db, "--http", http, *arguments) as process:
        yield Dashboard(process, f"http://{http}", jobs, tokens)


@pytest.fixture(scope="session")
def dashboard(db: str, jobs: dict[str, str]) -> Iterator[Dashboard]:
    """That anyone on this machine may look at."""
    with _serving(db, jobs, {}) as found:
        yield found


@pytest.fixture(scope="session")
def guarded(db: str, jobs: dict[str, str]) -> Iterator[Dashboard]:
    """That asks for tokens."""
    with contextlib.closing(open_access(db)) as access:
        add_project(access, "empty")
        add_project(access, "slow", Limits(max_calls_per_s=1.0))
        tokens = {
            "reader": add_token(access, DEFAULT_PROJECT, Scope.READ).text,
            "owner": add_token(access, DEFAULT_PROJECT).text,
            "newcomer": add_token(access, "empty", Scope.READ).text,
            "slow": add_token(access, "slow").text,
        }
    with _serving(db, jobs, tokens, "--auth", "tokens") as found:
        yield found


@pytest.fixture(scope="session")
def windows(browser: Browser, dashboard: Dashboard) -> Iterator[SharedWindows]:
    """Windows on the dashboard that anyone may look at."""
    with contextlib.closing(SharedWindows(browser, dashboard.url)) as windows:
        yield windows


@pytest.fixture(scope="session")
def guarded_windows(browser: Browser, guarded: Dashboard) -> Iterator[SharedWindows]:
    """Windows on the dashboard that asks for tokens."""
    with contextlib.closing(SharedWindows(browser, guarded.url)) as windows:
        yield windows


@pytest.fixture
def page(windows: SharedWindows) -> Iterator[Page]:
    with windows.page() as page:
        yield page


@pytest.fixture
def dark_page(windows: SharedWindows) -> Iterator[Page]:
    """A page on a system with a dark theme."""
    with windows.page(color_scheme="dark") as page:
        yield page


@pytest.fixture
def guarded_page(guarded_windows: SharedWindows) -> Iterator[Page]:
    """A page on which nobody is signed in."""
    with guarded_windows.page() as page:
        yield page


@pytest.fixture
def start_job(dashboard: Dashboard) -> Callable[..., RunningJob]:
    def start(name: str, **options: Any) -> RunningJob:
        return RunningJob(dashboard.process, name, **options)

    return start
