from __future__ import annotations

import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.support.crashes import checking_clients
from tests.support.servers.event_loop import run
from tuner_server.base.failures import FAILURES
from tuner_server.core.errors import OverloadError, StorageError
from tuner_server.core.messages import Outcome, Phase
from tuner_server.ops.metrics import ServerMetrics, exposition
from tuner_server.process import health_monitor
from tuner_server.process.health_monitor import HealthMonitor
from tuner_server.process.worker_protocol import Health
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage
from tuner_server.storage.sql import SqlStorage


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


def test_a_database_that_does_not_answer_is_a_problem_until_it_does(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    asked = 0

    def ping(_storage: SqlStorage) -> None:
        nonlocal asked
        asked += 1
        assert answers.wait(30)

    async def look() -> list[str]:
        with open_storage(url) as storage, TunerService(storage) as service:
            opened = HealthMonitor(storage, service.pipeline, None)
            found = [(await opened.check()).problem for _ in range(3)]
            answers.set()
            monkeypatch.setattr(health_monitor, "ANSWER_S", 30.0)
            found.append((await opened.check()).problem)
            opened.close()
            return found

    monkeypatch.setattr(health_monitor, "ANSWER_S", 0.01)
    monkeypatch.setattr(SqlStorage, "ping", ping)
    assert run(look()) == [*["no answer within 0.01 s"] * 3, ""]
    assert asked == 1  # questions don't pile up behind one that hangs


def test_a_problem_has_the_words_of_the_database(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ping(_storage: SqlStorage) -> None:
        raise StorageError("/srv/jobs.db: the disk is gone", "the disk is gone")

    async def look() -> str:
        with open_storage(url) as storage, TunerService(storage) as service:
            opened = HealthMonitor(storage, service.pipeline, None)
            problem = (await opened.check()).problem
            opened.close()
            return problem

    monkeypatch.setattr(SqlStorage, "ping", ping)
    assert run(look()) == "the database can't be used: the disk is gone; the server's log has the reason"


def test_writes_are_tried_now_and_then_and_at_each_look_after_a_failure(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bool] = []
    broken = False

    def touch(_storage: SqlStorage) -> None:
        written.append(not broken)
        if broken:
            raise OverloadError("the disk is full")

    async def look() -> None:
        nonlocal broken
        with open_storage(url) as storage, TunerService(storage) as service:
            opened = HealthMonitor(storage, service.pipeline, None)

            async def problems(looks: int) -> list[str]:
                return [(await opened.check()).problem for _ in range(looks)]

            assert await problems(3) == [""] * 3
            assert written == [True]  # it waits for a disk: not at each look
            FAILURES.because(StorageError("a call"))
            assert await problems(2) == [""] * 2
            assert written == [True] * 2
            broken = True
            FAILURES.because(StorageError("another"))
            assert await problems(3) == ["the disk is full"] * 3
            broken = False
            assert await problems(2) == [""] * 2
            assert written == [True, True, False, False, False, True]
            opened.close()

    monkeypatch.setattr(SqlStorage, "touch", touch)
    run(look())


def test_a_pipeline_whose_threads_have_ended_is_a_problem_that_lasts(url: str) -> None:
    async def look() -> Health:
        with open_storage(url) as storage:
            service = TunerService(storage)
            opened = HealthMonitor(storage, service.pipeline, None)
            service.close()
            found = await opened.check()
            opened.close()
            return found

    assert run(look()) == Health("a thread that takes reports has ended; start the server anew", lasting=True)


def test_what_a_pipeline_does_and_how_it_stands_is_counted(url: str) -> None:
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    config = checking_clients.configs(2)[1]  # one that searches

    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(name, labels)
        assert found is not None, exposition(registry).decode()
        return found

    async def look(opened: HealthMonitor) -> None:
        assert (await opened.check()).problem == ""
        opened.close()

    with open_storage(url) as storage, TunerService(storage, observer=metrics) as service:
        stored = service.create_job("default", "r", config)
        run(look(HealthMonitor(storage, service.pipeline, metrics)))
        assert value("lrpilot_database_up") == 1
        assert (
            sum(value("lrpilot_jobs", status=status, life="alive") for status in ("warm_up", "searching", "training"))
            == 1
        )
        training, n_reports = checking_clients.training(config), 0
        directive = stored.state.directive
        while directive.phase is not Phase.STOP:
            report = training.run(directive)
            directive = service.advance("default", stored.id, report).result()
            n_reports += 1
        service.advance("default", stored.id, report).result()
        run(look(HealthMonitor(storage, service.pipeline, metrics)))
    searched, others = (
        sum(value("lrpilot_reports_total", search=search, outcome=outcome) for outcome in Outcome)
        for search in ("yes", "no")
    )
    assert searched + others == n_reports
    assert value("lrpilot_group_reports_sum", part="search") == searched
    assert value("lrpilot_group_reports_sum", part="commit") == n_reports
    assert value("lrpilot_group_reports_sum", part="decide") == n_reports + 1
    assert value("lrpilot_reports_repeated_total") == 1
    assert value("lrpilot_commit_conflicts_total") == 0
    assert value("lrpilot_waiting_reports", queue="reports") == 0
    assert (
        sum(value("lrpilot_jobs", status=status, life="alive") for status in ("warm_up", "searching", "training")) == 0
    )
