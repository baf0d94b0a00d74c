from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.support.jobs.sample_jobs import SlowTraining, job_config, run_job
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.base.clock import utc_now
from tuner_server.core.job.life import ALL_SHOWN
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob, StoredVersion, open_storage
from tuner_server.web.pages.listing import Column, Listing, ListingQuery, listing
from tuner_server.web.server import listing_cache
from tuner_server.web.server.listing_cache import ListingCache


class CountingService(TunerService):
    """Knows which jobs were read."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]  # passed through
        self.read: list[str] = []

    def get_jobs(self, project: str, job_ids: Collection[str]) -> list[StoredJob]:
        self.read += job_ids
        return super().get_jobs(project, job_ids)

    def taken(self) -> list[str]:
        """The ids of the jobs that were read since the last call."""
        found, self.read = self.read, []
        return found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[CountingService]:
    with open_storage(f"sqlite:///{tmp_path}/jobs.db") as storage, CountingService(storage) as service:
        yield service


def opened(service: TunerService, name: str, reports: int = 0) -> str:
    return run_job(service, job_config(name), SlowTraining(validates=True), reports)


def names(found: Listing) -> list[str]:
    return [row.name for row in found.rows]


def test_only_jobs_that_changed_are_read_again(service: CountingService) -> None:
    ids = [opened(service, f"job {i}", reports=1) for i in range(3)]
    found = ListingCache(service)
    found.get(DEFAULT_PROJECT, ListingQuery())
    assert sorted(service.taken()) == sorted(ids)
    found.get(DEFAULT_PROJECT, ListingQuery())
    found.get(DEFAULT_PROJECT, ListingQuery(column=Column.NAME, descending=False))
    found.get(DEFAULT_PROJECT, ListingQuery(state="live"))
    assert service.taken() == []

    service.cancel_job(DEFAULT_PROJECT, ids[1], "")
    new = opened(service, "new")
    page = found.get(DEFAULT_PROJECT, ListingQuery())
    assert sorted(service.taken()) == sorted([ids[1], new])
    jobs = service.list_jobs(DEFAULT_PROJECT, 10).jobs
    vitals = {job.id: service.vitals(job) for job in jobs}
    assert page == listing(jobs, ListingQuery(), vitals, now=utc_now(), complete=True)
    assert names(found.get(DEFAULT_PROJECT, ListingQuery(state="cancelled"))) == ["job 1"]


def test_the_version_of_a_page_changes_with_what_it_shows_and_with_nothing_else(service: CountingService) -> None:
    first, other = opened(service, "first"), opened(service, "other")
    found, query = ListingCache(service), ListingQuery(text="first")
    before = found.get(DEFAULT_PROJECT, query).version
    service.cancel_job(DEFAULT_PROJECT, other, "")
    assert found.get(DEFAULT_PROJECT, query).version == before
    service.cancel_job(DEFAULT_PROJECT, first, "")
    assert found.get(DEFAULT_PROJECT, query).version != before


def test_a_projects_list_has_its_own_jobs_alone(service: CountingService) -> None:
    opened(service, "ours")
    found = ListingCache(service)
    assert names(found.get(DEFAULT_PROJECT, ListingQuery())) == ["ours"]
    assert names(found.get("another", ListingQuery())) == []


def test_there_is_an_end_to_what_is_kept(service: CountingService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_cache, "NEWEST", 2)
    monkeypatch.setattr(listing_cache, "MAX_JOBS_KEPT", 1)
    opened(service, "oldest", reports=1)
    ended = opened(service, "ended")
    service.cancel_job(DEFAULT_PROJECT, ended, "")
    opened(service, "newest", reports=1)
    found = ListingCache(service)
    page = found.get(DEFAULT_PROJECT, ListingQuery())
    assert (names(page), page.complete) == (["newest", "ended"], False)
    assert names(found.get(DEFAULT_PROJECT, ListingQuery(state="live"))) == ["newest", "oldest"]
    service.taken()
    assert found.get(DEFAULT_PROJECT, ListingQuery()) == page
    assert service.taken(), "one was forgotten for the other"


def test_a_job_that_is_deleted_between_the_two_looks_is_left_out(
    service: CountingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = opened(service, "kept"), opened(service, "gone")
    versions = service.job_versions(DEFAULT_PROJECT, 10, ALL_SHOWN, "")
    assert [version.id for version in versions] == [gone, kept]
    deleted = StoredVersion("deleted", 3, versions[0].signs)
    monkeypatch.setattr(service, "job_versions", lambda *_: [deleted, *versions])
    assert names(ListingCache(service).get(DEFAULT_PROJECT, ListingQuery())) == ["gone", "kept"]
