"""What a storage keeps of the signs of clients, on every backend; the life in SQL is that of `core.job.life`."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from lrpilot.wire.text.job_names import generated

from tests.contract.test_storage import PROJECT, T, at_once, create, record, report, transition, versions
from tuner_server.core.errors import ConflictError, NotFoundError, QuotaError
from tuner_server.core.job.life import SHOWN, Life, LifeLimits, Signs, shown_word
from tuner_server.core.job.state import Status
from tuner_server.storage import Change, Database, DeadJobs, JobFilter, Storage, StoredJob, open_storage
from tuner_server.storage.tables import JobRow, ProjectRow

NOW = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
LIMITS = LifeLimits.of_seconds(300, 3600)
AGES_S = (-100_000.0, -301.0, -300.0, 0.0, 300.0, 301.0, 3600.0, 3601.0)


STATUSES = (Status.TRAINING, Status.SEARCHING, Status.FINISHED)


@pytest.fixture
def storage(database_url: str) -> Iterator[Storage]:
    with open_storage(database_url, upgrade=True, limits=LIMITS) as opened:
        yield opened


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.fixture
def jobs(storage: Storage, database_url: str) -> list[StoredJob]:
    """Jobs of several statuses and ages of the last sign, some of whose clients left."""
    kinds = [*itertools.product(STATUSES, AGES_S, [False]), *itertools.product(STATUSES, [0.0, 301.0, 3601.0], [True])]
    for i, (status, _, _) in enumerate(kinds):
        create(storage, f"{i:03}", NOW - timedelta(days=2), status=status)
    with Database(database_url) as database, database.writing() as connection:
        for i, (_, age_s, left) in enumerate(kinds):
            signs = {"sign_time": ago(age_s), "leave_time": ago(age_s) if left else None}
            connection.execute(sa.update(JobRow).where(JobRow.id == f"{i:03}").values(**signs))
    return list(storage.page(PROJECT, 1000).jobs)


def life_of(job: StoredJob) -> Life | None:
    return LIMITS.vitals(job.state.status, job.signs, NOW).life


def test_every_query_has_the_life_of_the_one_rule(storage: Storage, jobs: list[StoredJob]) -> None:
    for word, shown in SHOWN.items():
        found = {job.id for job in storage.page(PROJECT, 1000, wanted=JobFilter(shown, NOW)).jobs}
        assert found == {job.id for job in jobs if shown.shows(job.state.status, life_of(job))}, word
        assert found == {each.id for each in storage.versions(PROJECT, 1000, wanted=JobFilter(shown, NOW))}
    counted = Counter((job.state.status, life_of(job)) for job in jobs if job.state.status.live)
    assert {key: n for key, n in storage.live_jobs(NOW).items() if n} == counted
    for silent in (False, True):
        dead = DeadJobs(NOW + timedelta(days=9), NOW, silent=silent)
        lives = {None, Life.STOPPED, Life.ABANDONED, *([Life.SILENT] if silent else [])}
        words = Counter(shown_word(job.state.status, life_of(job)) for job in jobs if life_of(job) in lives)
        assert storage.prunable(dead) == words
    assert storage.prune(dead, 1000) == words
    assert {life_of(job) for job in storage.page(PROJECT, 1000).jobs} == {Life.ALIVE}


def test_what_gave_a_sign_lately_is_not_pruned_however_old_its_last_change_is(
    storage: Storage, jobs: list[StoredJob]
) -> None:
    storage.prune(DeadJobs(ago(3601), NOW), 1000)
    left = storage.page(PROJECT, 1000).jobs
    assert {job.id for job in left} == {job.id for job in jobs if job.signs.sign_time >= ago(3601)}


def test_a_quota_counts_what_lives(storage: Storage, database_url: str, jobs: list[StoredJob]) -> None:
    n_alive = sum(life_of(job) is Life.ALIVE for job in jobs)
    set_quota(database_url, n_alive + 1)
    create(storage, "one more", NOW)
    with pytest.raises(QuotaError, match=f"{n_alive + 1} jobs that are alive"):
        create(storage, "too many", NOW)
    storage.leave(storage.load("one more"), NOW)
    create(storage, "in its place", NOW)


def test_who_comes_back_takes_a_place_as_a_new_job_does(storage: Storage, database_url: str) -> None:
    assert not storage.has_quota(PROJECT)
    for job_id in ("away", "there"):
        create(storage, job_id, NOW)
    storage.leave(storage.load("away"), NOW)
    set_quota(database_url, 1)
    assert storage.has_quota(PROJECT)
    later = NOW + timedelta(seconds=1)
    with pytest.raises(QuotaError):
        storage.revive(PROJECT, "away", later)
    away = storage.load("away")
    with pytest.raises(QuotaError):
        storage.rewind(away, away.state, later)
    assert storage.load("away") == away
    storage.revive(PROJECT, "there", later)  # which has its place
    storage.leave(storage.load("there"), later)
    storage.revive(PROJECT, "away", later)
    assert storage.load("away").signs == Signs(later)
    storage.rewind(away, away.state, later)


def test_places_are_not_given_twice_to_those_who_come_back_at_once(storage: Storage, database_url: str) -> None:
    names = [f"{i}" for i in range(8)]
    for job_id in names:
        create(storage, job_id, NOW)
        storage.leave(storage.load(job_id), NOW)
    set_quota(database_url, 3)
    later = NOW + timedelta(seconds=1)
    found = at_once(*(functools.partial(storage.revive, PROJECT, job_id, later) for job_id in names))
    assert [error for error in found if error is not None and not isinstance(error, QuotaError)] == []
    assert found.count(None) == 3


def set_quota(database_url: str, limit: int) -> None:
    with Database(database_url) as database, database.writing() as connection:
        connection.execute(sa.update(ProjectRow).values(max_alive_jobs=limit))


def test_live_jobs_are_counted_in_an_index_alone(storage: Storage, database_url: str) -> None:
    if not database_url.startswith("sqlite"):
        pytest.skip("PostgreSQL chooses by its statistics")
    create(storage)
    query = "EXPLAIN QUERY PLAN SELECT count(*) FROM jobs WHERE project = 'default' AND status IN ('a', 'b') "
    query += "AND leave_time IS NULL AND sign_time BETWEEN '2026' AND '2027'"
    with Database(database_url) as database, database.reading() as connection:
        plan = " ".join(str(row.detail) for row in connection.exec_driver_sql(query))
    assert "COVERING INDEX ix_jobs_life (project=? AND sign_time>? AND sign_time<?)" in plan


def test_reports_and_resumption_are_signs_and_what_others_do_is_none(storage: Storage) -> None:
    job = create(storage, "job", ago(1000))
    job = storage.update(job, job.state.model_copy(update={"message": "an operator's"}), ago(900))
    assert storage.load("job").signs == Signs(ago(1000))
    storage.leave(storage.load("job"), ago(800))
    assert storage.load("job").signs == Signs(ago(800), ago(800))
    job = record(storage, storage.load("job"), report(), b"", transition(2), ago(700))
    assert storage.load("job") == job
    assert job.signs == Signs(ago(700))
    storage.leave(storage.load("job"), ago(600))
    job = storage.rewind(storage.load("job"), transition(1).state, ago(500))
    assert storage.load("job").signs == job.signs == Signs(ago(500))


def test_signs_leave_the_version_alone(storage: Storage) -> None:
    job = create(storage, "job", ago(1000))
    storage.sign({(PROJECT, "job"): ago(10)})
    storage.revive(PROJECT, "job", ago(5))
    assert versions(storage, 10) == [("job", 1)]
    record(storage, job, report(), b"", transition(2), NOW)


def test_nobody_takes_a_job_whose_client_has_left_for_one_whose_client_is_there(storage: Storage) -> None:
    job = create(storage, "job", ago(1000))
    storage.leave(job, ago(5))
    assert storage.record([Change(job, report(), b"", transition(2))], NOW) == [None]
    with pytest.raises(ConflictError):
        storage.rewind(job, transition(1).state, NOW)
    assert storage.load("job").signs == Signs(ago(5), ago(5))


def test_a_sign_revives_but_not_one_from_before_its_client_left(storage: Storage) -> None:
    create(storage, "job", ago(1000))
    storage.leave(storage.load("job"), ago(100))
    storage.sign({(PROJECT, "job"): ago(101)})
    assert storage.load("job").signs == Signs(ago(100), ago(100))
    storage.sign({(PROJECT, "job"): ago(99)})
    assert storage.load("job").signs == Signs(ago(99))


def test_a_client_that_left_in_the_future_of_a_clock_that_was_set_back_can_come_back(storage: Storage) -> None:
    create(storage, "job", ago(0))
    storage.leave(storage.load("job"), ago(-10_000))
    storage.sign({(PROJECT, "job"): NOW})
    assert storage.load("job").signs == Signs(NOW)


def test_signs_of_jobs_that_are_not_there_or_elsewhere_change_nothing(storage: Storage) -> None:
    job = create(storage, "job", ago(1000))
    storage.sign({("another", "job"): NOW, (PROJECT, "deleted"): NOW})
    storage.sign({})
    assert storage.load("job") == job


def test_a_job_was_opened_by_one_request_of_its_project(storage: Storage) -> None:
    create(storage, "job", NOW)
    create(storage, "another", NOW)
    requests = ("request of job", "request of another", "")
    asked = [(job_id, request_id) for job_id in ("job", "another", "none") for request_id in requests]
    opened = [pair for pair in asked if storage.opened_by(*pair)]
    assert opened == [("job", "request of job"), ("another", "request of another")]


def test_a_client_leaves_a_job_only_as_it_was_when_it_was_looked_at(storage: Storage) -> None:
    former = create(storage, "job", ago(1000))
    job = record(storage, former, report(), b"", transition(2), ago(10))
    with pytest.raises(ConflictError):
        storage.leave(former, NOW)
    assert storage.load("job") == job
    storage.delete(job)
    with pytest.raises(ConflictError):
        storage.leave(job, NOW)


def test_signs_and_reports_at_once_are_all_written(storage: Storage) -> None:
    made = [create(storage, f"{i}", ago(1000)) for i in range(8)]
    signs = {(PROJECT, job.id): ago(1) for job in reversed(made)}

    def reported() -> T | None:
        for job in made:
            record(storage, job, report(), b"", transition(2), NOW)
        return None

    results = at_once(reported, *(lambda: storage.sign(signs) for _ in range(4)))
    assert results == [None] * 5
    assert all(job.version == 2 for job in storage.page(PROJECT, 10).jobs)


def test_a_name_and_a_note_stay_with_the_job(storage: Storage) -> None:
    job = create(storage, "job", ago(1000))
    described = storage.describe(job, "another name", "a note")
    assert storage.load("job") == described
    assert (described.state.config.name, described.note, described.version) == ("another name", "a note", 2)
    assert (described.update_time, described.signs) == (job.update_time, job.signs)
    with pytest.raises(ConflictError):
        storage.describe(job, "late", "")
    described = record(storage, described, report(), b"", transition(2), NOW)
    assert storage.load("job").note == described.note == "a note"


def test_jobs_are_found_by_name_and_by_the_beginning_of_an_id(storage: Storage) -> None:
    for job_id, name in [("aa0", "first"), ("aab", "second"), ("ab0", "second")]:
        storage.describe(create(storage, job_id), name, "")

    def called(word: str) -> list[str]:
        return sorted(job.id for job in storage.page(PROJECT, 10, wanted=JobFilter(called=word)).jobs)

    assert called("aa") == ["aa0", "aab"]
    assert called("aa0") == ["aa0"]
    assert called("second") == ["aab", "ab0"]
    assert called("seco") == called("%") == called("z") == []


@pytest.mark.parametrize("unseen", ["", " \u3000\u200d"])
def test_a_job_without_a_name_is_found_by_the_one_that_its_id_makes(storage: Storage, unseen: str) -> None:
    job_id, named = "4f05d4" + "0" * 26, "4f05d4" + "1" * 26
    storage.describe(create(storage, job_id), unseen, "")
    storage.describe(create(storage, named), "mine", "")
    found = storage.page(PROJECT, 10, wanted=JobFilter(called=generated(job_id))).jobs
    assert [job.id for job in found] == [job_id], "the other one has a name of its own"


def test_a_job_is_deleted_with_its_history_unless_it_has_changed(storage: Storage) -> None:
    job, other = create(storage, "job"), create(storage, "other")
    newer = record(storage, job, report(), b"", transition(2), NOW)
    with pytest.raises(ConflictError):
        storage.delete(job)
    storage.delete(newer)
    with pytest.raises(NotFoundError):
        list(storage.history("job", losses=False))
    assert storage.page(PROJECT, 10).jobs == (other,)
    with pytest.raises(ConflictError):
        storage.delete(newer)
