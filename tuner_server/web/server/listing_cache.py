"""A cache of the list of jobs, for which only what has changed is read from the service."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cachetools import TTLCache

from tuner_server.service.job_cache import KEPT_S
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob, StoredVersion
from tuner_server.web.pages.listing import NEWEST, STATES, Listing, ListingQuery, listing

MAX_JOBS_KEPT = 4 * NEWEST
"""Jobs of all projects together: measured, 1,000 take some 13 MB."""


class ListingCache:
    """The pages of the list. Thread-safe.

    A look reads versions and signs of the jobs, which is cheap, and then the jobs whose version is not known yet.
    """

    def __init__(self, service: TunerService) -> None:
        """Reads from `service`."""
        self._service = service
        self._lock = threading.Lock()
        self._jobs: TTLCache[str, StoredJob] = TTLCache(MAX_JOBS_KEPT, KEPT_S)

    def get(self, project: str, query: ListingQuery) -> Listing:
        """The page that a query asks for, as it is now. Raises: StorageError."""
        versions = self._service.job_versions(project, NEWEST + 1, STATES[query.state], query.family)
        # Held while jobs are read: whoever comes meanwhile would read the same ones.
        with self._lock:
            jobs = self._read(project, versions[:NEWEST])
        # The signs of clients are newer than the jobs, whose versions don't change with them.
        signs = {version.id: version.signs for version in versions}
        vitals = {job.id: self._service.vitals(job, signs[job.id]) for job in jobs}
        return listing(jobs, query, vitals, complete=len(versions) <= NEWEST)

    def _read(self, project: str, versions: Sequence[StoredVersion]) -> list[StoredJob]:
        """The jobs, those that are known from memory. One that was deleted meanwhile is left out."""
        found = {each.id: job for each in versions if (job := self._known(each)) is not None}
        unknown = [each.id for each in versions if each.id not in found]
        if unknown:
            read = {job.id: job for job in self._service.get_jobs(project, unknown)}
            self._jobs.update(read)
            found |= read
        return [found[each.id] for each in versions if each.id in found]

    def _known(self, version: StoredVersion) -> StoredJob | None:
        """The job at that version, if it is known."""
        job = self._jobs.get(version.id)
        return job if job is not None and job.version == version.version else None
