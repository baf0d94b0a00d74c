"""Reports through the pipeline: in groups, with a cache, beside other processes, on a database that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.jobs.simulated_training import QUICK, SimulatedTraining, config, drive
from tuner_server.core.errors import NotFoundError, PreconditionError, StorageError
from tuner_server.core.job import lockstep
from tuner_server.core.messages import Directive, Phase, Report
from tuner_server.service import pipeline
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Change, Database, StoredJob, open_storage
from tuner_server.storage.sql import SqlStorage

PROJECT = "default"
TIMEOUT_S = 30.0
CONFIG = config(400, **QUICK)


class GatedStorage(SqlStorage):
    """A storage whose commits wait, so that reports gather; it counts them, and may refuse some."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.open = threading.Event()
        self.open.set()
        self.waiting = threading.Semaphore(0)
        self.groups: list[int] = []
        self.refused: set[str] = set()
        self.away = False
        self.loads = 0

    def record(self, changes: Sequence[Change], now: datetime) -> list[StoredJob | None]:
        self.waiting.release()
        assert self.open.wait(TIMEOUT_S)
        self.groups.append(len(changes))
        if self.away:
            raise StorageError("the database is away")
        if any(change.job.id in self.refused for change in changes):
            raise ValueError("a row that can't be written")
        return super().record(changes, now)

    def load(self, job_id: str) -> StoredJob:
        self.loads += 1
        return super().load(job_id)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lrpilot.db"


@pytest.fixture
def storage(url: str) -> Iterator[GatedStorage]:
    open_storage(url).close()
    with GatedStorage(Database(url)) as opened:
        yield opened


@pytest.fixture
def service(storage: GatedStorage) -> Iterator[TunerService]:
    with TunerService(storage) as opened:
        yield opened


class Job:
    """A job and its simulated training."""

    def __init__(self, service: TunerService, seed: int) -> None:
        self.service = service
        self.config = CONFIG.model_copy(update={"seed": seed})
        self.training = SimulatedTraining(seed)
        stored = service.create_job(PROJECT, f"request {seed}", self.config)
        self.id = stored.id
        self.directives = [stored.state.directive]
        self.alone = drive(self.config, SimulatedTraining(seed)).directives

    def send(self) -> Future[Directive]:
        """Reports on the outstanding directive."""
        return self.service.advance(PROJECT, self.id, self.training.run(self.directives[-1]))

    def take(self, answer: Future[Directive]) -> None:
        """Waits for the next directive."""
        self.directives.append(answer.result(TIMEOUT_S))

    @property
    def finished(self) -> bool:
        return self.directives[-1].phase is Phase.STOP


def test_jobs_that_share_commits_come_out_as_if_alone(service: TunerService, storage: GatedStorage) -> None:
    jobs = [Job(service, seed) for seed in range(8)]
    while live := [job for job in jobs if not job.finished]:
        for job, answer in [(job, job.send()) for job in live]:
            job.take(answer)
    for job in jobs:
        assert job.directives == job.alone


def test_reports_that_gather_share_one_commit(service: TunerService, storage: GatedStorage) -> None:
    jobs = [Job(service, seed) for seed in range(6)]
    storage.open.clear()
    first = jobs[0].send()
    assert storage.waiting.acquire(timeout=TIMEOUT_S)
    others = [job.send() for job in jobs[1:]]
    assert not first.done(), "nothing is answered before it is committed"
    storage.open.set()
    for job, answer in zip(jobs, [first, *others], strict=True):
        job.take(answer)
    assert sum(storage.groups) == 6
    assert max(storage.groups) > 1


def test_a_cached_job_is_not_loaded_again(service: TunerService, storage: GatedStorage) -> None:
    job = Job(service, 0)
    job.take(job.send())
    loads = storage.loads
    for _ in range(5):
        job.take(job.send())
    assert storage.loads == loads
    assert service.pipeline.cached_jobs == 1


def test_a_job_that_another_process_moved_goes_on_from_there(url: str, service: TunerService) -> None:
    job = Job(service, 0)
    job.take(job.send())  # this process has it in its cache from here on
    with open_storage(url) as storage, TunerService(storage) as other:
        while not job.finished:
            job.service = other if len(job.directives) % 3 else service
            job.take(job.send())
    assert job.directives == job.alone


def test_no_refusal_is_founded_on_an_old_state(url: str, service: TunerService) -> None:
    """Taken back by another process: what looks like an old report here is on the outstanding directive there."""
    job = Job(service, 0)
    reports: list[Report] = []
    for _ in range(4):
        reports.append(job.training.run(job.directives[-1]))
        job.take(service.advance(PROJECT, job.id, reports[-1]))
    with open_storage(url) as storage, TunerService(storage) as other:
        other.resume_job(PROJECT, job.id, 2)
    changed = reports[1].model_copy(update={"wall_time_s": 77.0})
    assert service.advance(PROJECT, job.id, changed).result(TIMEOUT_S).number == 3
    ahead = reports[3].model_copy(update={"directive_number": 9})
    with pytest.raises(PreconditionError, match="not the outstanding 3"):
        service.advance(PROJECT, job.id, ahead).result(TIMEOUT_S)


def test_another_projects_job_does_not_exist_cached_or_not(service: TunerService) -> None:
    job = Job(service, 0)
    report = job.training.run(job.directives[-1])
    for _ in range(2):
        with pytest.raises(NotFoundError, match=job.id):
            service.advance("other", job.id, report).result(TIMEOUT_S)
        service.advance(PROJECT, job.id, report).result(TIMEOUT_S)


def test_a_database_that_is_away_refuses_and_changes_nothing(service: TunerService, storage: GatedStorage) -> None:
    jobs = [Job(service, seed) for seed in range(3)]
    storage.away = True
    for job in jobs:
        report = job.training.run(job.directives[-1])
        with pytest.raises(StorageError, match="away"):
            service.advance(PROJECT, job.id, report).result(TIMEOUT_S)
        storage.away = False
        job.take(service.advance(PROJECT, job.id, report))
        storage.away = True
    storage.away = False
    for job in jobs:
        while not job.finished:
            job.take(job.send())
        assert job.directives == job.alone


def test_one_that_cannot_be_written_takes_no_other_with_it(service: TunerService, storage: GatedStorage) -> None:
    jobs = [Job(service, seed) for seed in range(4)]
    storage.open.clear()
    answers = [jobs[0].send()]
    assert storage.waiting.acquire(timeout=TIMEOUT_S)
    storage.refused = {jobs[2].id}
    answers += [job.send() for job in jobs[1:]]
    storage.open.set()
    for job, answer in zip(jobs, answers, strict=True):
        if job is jobs[2]:
            with pytest.raises(ValueError, match="can't be written"):
                answer.result(TIMEOUT_S)
        else:
            job.take(answer)


def test_duplicates_in_one_group_are_decided_once(service: TunerService, storage: GatedStorage) -> None:
    job, other = Job(service, 0), Job(service, 1)
    storage.open.clear()
    blocking = other.send()
    assert storage.waiting.acquire(timeout=TIMEOUT_S)
    report = job.training.run(job.directives[-1])
    answers = [service.advance(PROJECT, job.id, report) for _ in range(5)]
    storage.open.set()
    assert {answer.result(TIMEOUT_S).model_dump_json() for answer in answers} == {job.alone[1].model_dump_json()}
    other.take(blocking)
    assert len(list(service.history(service.get_job(PROJECT, job.id)).read())) == 2


def test_a_report_whose_caller_has_gone_is_not_looked_at(service: TunerService, storage: GatedStorage) -> None:
    job, other = Job(service, 0), Job(service, 1)
    storage.open.clear()
    blocking = other.send()
    assert storage.waiting.acquire(timeout=TIMEOUT_S)
    report = job.training.run(job.directives[-1])
    gone = service.advance(PROJECT, job.id, report)
    assert gone.cancel()
    storage.open.set()
    other.take(blocking)
    assert service.get_job(PROJECT, job.id).state.directive.number == 1
    job.take(service.advance(PROJECT, job.id, report))


def test_a_server_that_is_far_behind_refuses_more(
    service: TunerService, storage: GatedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_WAITING", 2)
    with TunerService(storage) as small:
        job = Job(small, 0)
        storage.open.clear()
        report = job.training.run(job.directives[-1])
        answers = [small.advance(PROJECT, job.id, report)]
        assert storage.waiting.acquire(timeout=TIMEOUT_S)
        answers += [small.advance(PROJECT, job.id, report) for _ in range(3)]
        with pytest.raises(StorageError, match="try again"):
            answers[3].result(TIMEOUT_S)
        storage.open.set()
        assert [answer.result(TIMEOUT_S).number for answer in answers[:3]] == [2, 2, 2]


def test_what_waits_is_answered_before_the_end(url: str, storage: GatedStorage) -> None:
    with TunerService(storage) as service:
        jobs = [Job(service, seed) for seed in range(4)]
        answers = [job.send() for job in jobs]
    assert [answer.result(0).number for answer in answers] == [2] * 4
    with pytest.raises(StorageError, match="stopping"):
        jobs[0].send().result(0)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), RuntimeError("a bug")], ids=repr)
@pytest.mark.parametrize("step", ["begin", "finish_all"])
def test_whatever_is_raised_on_the_way_is_its_report_s_and_the_next_one_is_answered(
    step: str, error: BaseException, service: TunerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise error

    jobs = [Job(service, seed) for seed in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(lockstep, step, fail)
        while (failed := (answer := jobs[0].send()).exception(TIMEOUT_S)) is None:
            jobs[0].take(answer)  # it needs no search
        assert isinstance(failed, Exception)
    assert service.pipeline.alive
    while not jobs[1].finished:
        jobs[1].take(jobs[1].send())
    assert jobs[1].directives == jobs[1].alone
    service.close()
    assert not service.pipeline.alive
