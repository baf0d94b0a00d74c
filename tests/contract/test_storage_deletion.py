"""A job is gone at once for everybody, however many transactions its rows take, and whatever comes between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from tests.contract.test_storage import LATER, NOW, PROJECT, create, record, report, transition
from tuner_server.core.errors import ConflictError, NotFoundError, QuotaError
from tuner_server.core.job.life import LifeLimits
from tuner_server.core.job.machine import Status
from tuner_server.storage import Change, Database, DeadJobs, JobFilter, Storage, StoredJob, deletion, open_storage
from tuner_server.storage.job_choice import HALF_DELETED
from tuner_server.storage.tables import EntryRow, ProjectRow

N = 9
SOON = NOW + timedelta(minutes=1)
DEAD = DeadJobs(SOON, SOON, PROJECT)
DELETIONS: dict[str, Callable[[Storage, StoredJob], object]] = {
    "delete": lambda storage, job: storage.delete(job),
    "prune": lambda storage, _: storage.prune(DEAD, 10),
}


@pytest.fixture
def storage(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A storage that deletes two entries at a time."""
    monkeypatch.setattr(deletion, "ENTRIES_AT_ONCE", 2)
    with open_storage(database_url, upgrade=True) as opened:
        yield opened


@pytest.fixture
def job(storage: Storage) -> StoredJob:
    """A job whose client has left, with more entries than one transaction deletes."""
    found = create(storage)
    for number in range(1, N):
        found = record(storage, found, report(number), b"%d" % number, transition(number + 1), NOW)
    storage.leave(found, NOW)
    return storage.load("job")


class Killed(Exception):
    """What ends a deletion between two of its transactions."""


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What is done after each transaction that deletes a part of a job, in turn."""
    calls: list[Callable[[], object]] = []
    parts: list[str] = []
    turn = deletion._turn

    @contextlib.contextmanager
    def followed(database: Database) -> Iterator[sa.Connection]:
        parts.clear()
        with turn(database) as connection:
            yield connection
        if parts and calls:
            calls.pop(0)()

    def noted(function: Callable[[sa.Connection, str], None]) -> Callable[[sa.Connection, str], None]:
        def run(connection: sa.Connection, job_id: str) -> None:
            parts.append(job_id)
            function(connection, job_id)

        return run

    monkeypatch.setattr(deletion, "_turn", followed)
    for name in ("_make_gone", "_delete_end"):
        monkeypatch.setattr(deletion, name, noted(getattr(deletion, name)))
    return calls


def killed() -> None:
    raise Killed


def numbers(database_url: str, job_id: str = "job") -> list[int]:
    """The numbers of the entries that there are still, whoever may see them."""
    query = sa.select(EntryRow.number).where(EntryRow.job_id == job_id).order_by(EntryRow.number)
    with Database(database_url) as database, database.reading() as connection:
        return list(connection.execute(query).scalars())


def check_gone(storage: Storage, job: StoredJob) -> None:
    """Nobody sees the job."""
    for read in (lambda: storage.load(job.id), lambda: list(storage.history(job.id, losses=True))):
        with pytest.raises(NotFoundError):
            read()
    assert storage.load_all([job.id]) == []
    assert storage.page(PROJECT, 10).jobs == ()
    assert storage.page(PROJECT, 10, wanted=JobFilter(called=job.id)).jobs == ()
    assert storage.versions(PROJECT, 10) == []
    assert not storage.opened_by(job.id, f"request of {job.id}")
    assert storage.answer(job.id, 1) is None
    assert not any(storage.live_jobs(SOON).values())


def check_takes_nothing(storage: Storage, job: StoredJob) -> None:
    """Nothing is written to a job by whoever has loaded it before it was deleted."""
    number = job.state.directive.number
    change = Change(job, report(number), b"late", transition(number + 1))
    assert storage.record([change], LATER) == [None]
    storage.sign({(PROJECT, job.id): LATER})
    writes: list[Callable[[], object]] = [
        lambda: storage.leave(job, LATER),
        lambda: storage.rewind(job, transition(2).state, LATER),
        lambda: storage.update(job, job.state.model_copy(update={"message": "another plan"}), LATER),
        lambda: storage.describe(job, "name", "note"),
        lambda: storage.delete(job),
    ]
    for write in writes:
        with pytest.raises(ConflictError):
            write()


@pytest.mark.parametrize("way", DELETIONS)
def test_between_two_parts_a_job_is_gone_and_takes_nothing(
    storage: Storage, job: StoredJob, database_url: str, between: list[Callable[[], object]], way: str
) -> None:
    left: list[list[int]] = []

    def tried() -> None:
        left.append(numbers(database_url))
        check_gone(storage, job)
        check_takes_nothing(storage, job)
        check_gone(storage, job)
        assert numbers(database_url) == left[-1]

    between.extend([tried] * 5)
    assert DELETIONS[way](storage, job) in (None, {"stopped": 1})
    assert left == [list(range(1, n + 1)) for n in (9, 7, 5, 3, 1)]
    assert numbers(database_url) == []
    assert storage.prune(DEAD, 10) == {}


@pytest.mark.parametrize("way", DELETIONS)
@pytest.mark.parametrize("n_transactions", [1, 3, 5])
def test_what_an_interruption_left_is_gone_and_goes_with_the_next_pruning(
    storage: Storage,
    job: StoredJob,
    database_url: str,
    between: list[Callable[[], object]],
    way: str,
    n_transactions: int,
) -> None:
    between.extend([lambda: None] * (n_transactions - 1) + [killed])
    with pytest.raises(Killed):
        DELETIONS[way](storage, job)
    assert numbers(database_url)
    with open_storage(database_url) as restarted:
        check_gone(restarted, job)
        check_takes_nothing(restarted, job)
        other = create(restarted, "other", SOON)
        elsewhere = DeadJobs(SOON, SOON, "elsewhere")
        assert restarted.prune(elsewhere, 10) == restarted.prunable(elsewhere) == {}
        just_ended = DeadJobs(NOW - timedelta(days=90), SOON)  # what is left goes however new it is
        assert restarted.prunable(just_ended) == {HALF_DELETED: 1}
        assert restarted.prune(just_ended, 10) == {HALF_DELETED: 1}
        assert restarted.prune(just_ended, 10) == restarted.prunable(just_ended) == {}
        assert restarted.page(PROJECT, 10).jobs == (other,)
    assert numbers(database_url) == []
    assert numbers(database_url, "other") == [1]


@pytest.mark.parametrize("way", DELETIONS)
def test_what_an_interruption_left_is_swept_unless_the_sweep_is_ended(
    storage: Storage, job: StoredJob, database_url: str, between: list[Callable[[], object]], way: str
) -> None:
    between.append(killed)
    with pytest.raises(Killed):
        DELETIONS[way](storage, job)
    other = create(storage, "other", SOON)
    left = numbers(database_url)
    n_checks = 0

    def check() -> None:
        nonlocal n_checks
        n_checks += 1
        if n_checks == 3:
            raise Killed

    with pytest.raises(Killed):
        storage.sweep(check)
    assert 0 < len(numbers(database_url)) < len(left)
    assert storage.sweep(lambda: None) == 1
    assert numbers(database_url) == []
    assert storage.sweep(lambda: None) == 0
    assert storage.page(PROJECT, 10).jobs == (other,)


def test_the_request_of_a_job_that_is_gone_opens_another_one(
    storage: Storage, job: StoredJob, between: list[Callable[[], object]]
) -> None:
    opened: list[StoredJob] = []

    def come_back() -> None:
        with pytest.raises(ConflictError):  # nobody gets an id that has been another job's
            storage.create(PROJECT, job.id, "another request", b"content", transition(), SOON)
        opened.append(storage.create(PROJECT, "anew", f"request of {job.id}", b"another content", transition(), SOON))

    between.append(come_back)
    storage.delete(job)
    assert storage.page(PROJECT, 10).jobs == tuple(opened)
    assert [entry.directive.number for entry in storage.history("anew", losses=True)] == [1]


def test_no_client_can_have_a_request_that_keeps_a_job_from_being_deleted(storage: Storage, job: StoredJob) -> None:
    storage.create(PROJECT, "hostile", job.id, b"content", transition(), SOON)
    storage.delete(job)
    assert [found.id for found in storage.page(PROJECT, 10).jobs] == ["hostile"]


def test_a_job_that_is_gone_takes_no_place_in_the_quota(
    storage: Storage, job: StoredJob, database_url: str, between: list[Callable[[], object]]
) -> None:
    storage.sign({(PROJECT, job.id): SOON})
    with Database(database_url) as database, database.writing() as connection:
        connection.execute(sa.update(ProjectRow).values(max_alive_jobs=1))
    with pytest.raises(QuotaError):
        create(storage, "too early", SOON)
    between.append(lambda: storage.sign({(PROJECT, job.id): SOON}))
    between.append(lambda: create(storage, "in its place", SOON))
    storage.delete(job)
    assert [found.id for found in storage.page(PROJECT, 10).jobs] == ["in its place"]


def test_a_long_job_that_was_reported_on_meanwhile_keeps_everything(
    storage: Storage, job: StoredJob, database_url: str, between: list[Callable[[], object]]
) -> None:
    newer = record(storage, job, report(N), b"new", transition(N + 1), SOON)
    with pytest.raises(ConflictError):
        storage.delete(job)
    assert storage.prune(DEAD, 10) == {}
    assert storage.load(job.id) == newer
    assert numbers(database_url) == list(range(1, N + 2))


def test_a_history_that_is_read_while_its_job_is_deleted_has_no_false_end(
    storage: Storage, job: StoredJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner_server.storage.history_read.ROWS_AT_ONCE", 2)
    entries = storage.history(job.id, losses=True)
    assert next(entries).directive.number == 1
    storage.delete(job)
    with pytest.raises(ConflictError, match="was deleted"):
        list(entries)


def test_ended_and_abandoned_jobs_are_counted_once_however_long_they_were(
    storage: Storage, job: StoredJob, between: list[Callable[[], object]]
) -> None:
    storage.update(job, job.state.model_copy(update={"status": Status.FINISHED}), NOW)
    for i in range(3):
        create(storage, f"{i}", NOW)
    later = NOW + LifeLimits().abandoned_after + timedelta(hours=1)
    dead = DeadJobs(later, later)
    assert storage.prune(dead, 2) == {"finished": 1, "abandoned": 1}
    assert storage.prune(dead, 10) == {"abandoned": 2}
    with pytest.raises(NotFoundError):
        storage.load("0")
