from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.jobs.sample_jobs import job_config
from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.waiting import wait_until
from tuner_server.base.clock import utc_now
from tuner_server.core.errors import NotFoundError, PreconditionError, StorageError
from tuner_server.core.job.life import Life, LifeLimits, Signs
from tuner_server.service import sign_writer
from tuner_server.service.sign_writer import SignWriter
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Storage, StoredJob, open_storage
from tuner_server.storage.sql import SqlStorage

PROJECT = "default"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    with open_storage(f"sqlite:///{tmp_path}/jobs.db", limits=LifeLimits.of_seconds(1.0, 60.0)) as opened:
        yield opened


@pytest.fixture
def silent(storage: Storage) -> str:
    """The id of a job whose client is silent."""
    with TunerService(storage, lambda: LONG_AGO) as service:
        return service.create_job(PROJECT, "r", job_config("job")).id


def silent_jobs(storage: Storage, n: int) -> list[str]:
    """The ids of further ones."""
    with TunerService(storage, lambda: LONG_AGO) as service:
        return [service.create_job(PROJECT, f"r{i}", job_config("job")).id for i in range(n)]


def test_signs_are_gathered_and_written_together(
    storage: Storage, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    sign = SqlStorage.sign

    def counting(self: SqlStorage, signs: dict[tuple[str, str], datetime]) -> None:
        written.append(len(signs))
        sign(self, signs)

    monkeypatch.setattr(SqlStorage, "sign", counting)
    monkeypatch.setattr(sign_writer, "INTERVAL_S", 60.0)
    others = silent_jobs(storage, 10)
    with SignWriter(with_usual_limits(storage), utc_now) as writer:
        for i in range(1000):
            writer.add(PROJECT, silent, "")
            writer.add(PROJECT, others[i % 10], "")
    assert sum(written) == 11
    assert storage.load(silent).signs.sign_time > LONG_AGO


def with_usual_limits(storage: Storage) -> Storage:
    storage.life_limits = LifeLimits()
    return storage


def test_a_flood_of_signs_has_an_end(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_writer, "MAX_GATHERED", 3)
    monkeypatch.setattr(SqlStorage, "sign", lambda *_: None)
    with SignWriter(with_usual_limits(storage), utc_now) as writer:
        for i in range(100):
            writer.add(PROJECT, f"{i}", "")
        assert len(writer) <= 3
        writer.add("another", "1", "")
        assert len(writer) <= 4, "one project's flood is no other's"


def test_signs_wait_for_a_database_that_refuses_them(
    storage: Storage, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign, refused = SqlStorage.sign, threading.Event()

    def refusing(self: SqlStorage, signs: dict[tuple[str, str], datetime]) -> None:
        if signs and not refused.is_set():
            refused.set()
            raise StorageError("the disk is full")
        sign(self, signs)

    monkeypatch.setattr(SqlStorage, "sign", refusing)
    with SignWriter(storage, utc_now) as writer:
        writer.add(PROJECT, silent, "")
        wait_until(lambda: storage.load(silent).signs.sign_time > LONG_AGO)
    assert refused.is_set()


def test_a_sign_that_waits_does_not_revive_a_job_whose_client_left_after_it(storage: Storage, silent: str) -> None:
    with TunerService(with_usual_limits(storage)) as service:
        service.beat(PROJECT, silent)
        service.leave_job(PROJECT, silent)
    assert storage.load(silent).signs.leave_time is not None


def test_a_sign_at_one_server_does_not_revive_a_job_that_was_left_at_another(storage: Storage, silent: str) -> None:
    with TunerService(storage) as there, TunerService(with_usual_limits(storage)) as here:
        here.beat(PROJECT, silent)
        there.leave_job(PROJECT, silent)
    assert storage.load(silent).signs.leave_time is not None


def test_a_beat_revives(storage: Storage, silent: str) -> None:
    with TunerService(storage) as service:
        assert service.vitals(storage.load(silent)).life is Life.ABANDONED
        service.beat(PROJECT, silent)
        wait_until(lambda: service.vitals(storage.load(silent)).life is Life.ALIVE)
        service.beat("another", silent)
        service.beat(PROJECT, "0" * 32)


def test_a_job_with_a_client_is_deleted_only_by_force(storage: Storage) -> None:
    with TunerService(with_usual_limits(storage)) as service:
        job = service.create_job(PROJECT, "r", job_config("job"))
        with pytest.raises(PreconditionError, match="cancel the job first"):
            service.delete_job(PROJECT, job.id, force=False)
        with pytest.raises(NotFoundError):
            service.delete_job("another", job.id, force=True)
        assert service.delete_job(PROJECT, job.id, force=True) == job
        with pytest.raises(NotFoundError):
            service.get_job(PROJECT, job.id)
        left = service.create_job(PROJECT, "r2", job_config("job"))
        service.leave_job(PROJECT, left.id)
        service.delete_job(PROJECT, left.id, force=False)


def test_a_job_is_not_deleted_for_one_that_is_not_there_nor_if_it_is_a_runs(storage: Storage) -> None:
    with TunerService(with_usual_limits(storage)) as service:
        kept, stray, taken, ended = (
            service.create_job(PROJECT, name, job_config(name)) for name in ("kept", "stray", "taken", "ended")
        )
        service.resume_job(PROJECT, taken.id, 1, "life")
        service.cancel_job(PROJECT, ended.id, "")
        for following in (stray.id, "0" * 32):
            assert not service.leave_job(PROJECT, stray.id, continued_as=following, request_id="stray")
        assert not service.leave_job(PROJECT, taken.id, continued_as=kept.id, request_id="taken")
        assert not service.leave_job(PROJECT, taken.id, "life", continued_as=kept.id, request_id="taken")
        assert not service.leave_job(PROJECT, ended.id, continued_as=kept.id, request_id="ended")
        assert len(service.list_jobs(PROJECT, 10).jobs) == 4


def test_a_job_that_never_ran_and_goes_on_as_another_is_deleted(storage: Storage) -> None:
    with TunerService(with_usual_limits(storage)) as service:
        kept, stray, ran = (service.create_job(PROJECT, name, job_config(name)) for name in ("kept", "stray", "ran"))
        service.advance(PROJECT, ran.id, SimulatedTraining(validates=True).run(ran.state.directive)).result()
        with pytest.raises(NotFoundError):
            service.leave_job("another", stray.id, continued_as=kept.id, request_id="stray")
        for request_id in ("", "kept"):
            assert not service.leave_job(PROJECT, stray.id, continued_as=kept.id, request_id=request_id)
        assert service.leave_job(PROJECT, stray.id, continued_as=kept.id, request_id="stray")
        assert not service.leave_job(PROJECT, ran.id, continued_as=kept.id, request_id="ran")
        assert not service.leave_job(PROJECT, kept.id, "a former life", continued_as=ran.id, request_id="kept")
        assert {job.id for job in service.list_jobs(PROJECT, 10).jobs} == {kept.id, ran.id}
        assert storage.load(ran.id).signs.leave_time is not None


def test_a_repeated_call_of_a_client_is_a_sign(storage: Storage) -> None:
    with TunerService(storage) as service:
        job = service.create_job(PROJECT, "r", job_config("job"))
        calls: list[Callable[[], StoredJob]] = [
            lambda: service.create_job(PROJECT, "r", job_config("job")),
            lambda: service.resume_job(PROJECT, job.id, 1),
        ]
        for again in calls:
            service.leave_job(PROJECT, job.id)
            assert again().id == job.id
            assert service.get_job(PROJECT, job.id).signs.leave_time is None


def test_a_repeated_report_is_a_sign(storage: Storage) -> None:
    with TunerService(storage) as service:
        job = service.create_job(PROJECT, "r", job_config("job"))
        report = SimulatedTraining(validates=True).run(job.state.directive)
        answer = service.advance(PROJECT, job.id, report).result()
        service.leave_job(PROJECT, job.id)
        assert service.advance(PROJECT, job.id, report).result() == answer
        wait_until(lambda: service.get_job(PROJECT, job.id).signs.leave_time is None)


def test_many_signs_are_written_in_several_transactions(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(sign_writer, "MAX_WRITTEN", 10)
    jobs = silent_jobs(storage, 25)
    monkeypatch.setattr(SqlStorage, "sign", lambda _self, signs: written.append(len(signs)))
    with SignWriter(with_usual_limits(storage), utc_now) as writer:
        for job_id in jobs:
            writer.add(PROJECT, job_id, "")
    assert sorted(written) == [5, 10, 10]


FORMER = [
    pytest.param(("",), id="the first life"),
    pytest.param(("", "second"), id="a life that was overtaken itself"),
]


@pytest.mark.parametrize("lives", FORMER)
def test_a_former_life_gives_no_sign_and_does_not_leave(storage: Storage, lives: tuple[str, ...]) -> None:
    with TunerService(with_usual_limits(storage), lambda: LONG_AGO) as service:
        job = service.create_job(PROJECT, "r", job_config("job"))
        for resume_id in (*lives[1:], "present"):
            service.resume_job(PROJECT, job.id, 1, resume_id)
    with TunerService(storage) as service:
        service.beat(PROJECT, job.id, lives[-1])
        service.leave_job(PROJECT, job.id, lives[-1])
        service.beat(PROJECT, job.id, lives[-1])
    assert storage.load(job.id).signs == Signs(LONG_AGO)
    with TunerService(storage) as service:
        service.beat(PROJECT, job.id, lives[-1])
        service.beat(PROJECT, job.id, "present")
    signed = storage.load(job.id).signs
    assert signed.sign_time > LONG_AGO
    with TunerService(storage) as service:
        service.leave_job(PROJECT, job.id, "present")
        service.beat(PROJECT, job.id, lives[-1])
    assert storage.load(job.id).signs.leave_time is not None, "nobody revives what the present life has left"


def test_a_repeated_report_of_a_former_life_is_answered_and_is_no_sign(storage: Storage) -> None:
    with TunerService(with_usual_limits(storage)) as service:
        job = service.create_job(PROJECT, "r", job_config("job"))
        report = SimulatedTraining(validates=True).run(job.state.directive)
        answer = service.advance(PROJECT, job.id, report).result()
        service.resume_job(PROJECT, job.id, answer.number, "present")
        service.leave_job(PROJECT, job.id, "present")
        assert service.advance(PROJECT, job.id, report).result() == answer
    assert storage.load(job.id).signs.leave_time is not None


def test_whoever_leaves_while_the_job_moves_looks_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    leave, tries = SqlStorage.leave, 0
    with TunerService(with_usual_limits(storage)) as service:
        job = service.create_job(PROJECT, "r", job_config("job"))

        def overtaken(self: SqlStorage, stored: StoredJob, now: datetime) -> None:
            nonlocal tries
            tries += 1
            service.resume_job(PROJECT, job.id, 1, "present")
            leave(self, stored, now)

        monkeypatch.setattr(SqlStorage, "leave", overtaken)
        service.leave_job(PROJECT, job.id)
    assert tries == 1
    assert storage.load(job.id).signs.leave_time is None
