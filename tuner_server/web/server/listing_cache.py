"""A cache of the list of jobs, for which only what has changed is read from the service."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from cachetools import TTLCache

from tuner_server.base.clock import utc_now
from tuner_server.core.job.life import ALL_SHOWN
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
        shown = STATES[query.state]
        every = self._service.job_versions(project, NEWEST + 1, ALL_SHOWN, query.family)
        # Of a state there may be older ones than the newest of all.
        versions = every if shown.everything else self._service.job_versions(project, NEWEST + 1, shown, query.family)
        # Held while jobs are read: whoever comes meanwhile would read the same ones.
        with self._lock:
            known = self._read(project, [*every[:NEWEST], *versions[:NEWEST]])
        # The signs of clients are newer than the jobs, whose versions don't change with them.
        signs = {version.id: version.signs for version in (*every, *versions)}
        vitals = {job.id: self._service.vitals(job, signs[job.id]) for job in known.values()}
        return listing(
            [known[version.id] for version in versions[:NEWEST] if version.id in known],
            query,
            vitals,
            now=utc_now(),
            complete=len(versions) <= NEWEST,
            every=[known[version.id] for version in every[:NEWEST] if version.id in known],
        )

    def _read(self, project: str, versions: Iterable[StoredVersion]) -> dict[str, StoredJob]:
        """The jobs by their ids, those that are known from memory. One that was deleted meanwhile is left out."""
        wanted = {version.id: version.version for version in versions}
        found = {job_id: job for job_id in wanted if (job := self._jobs.get(job_id)) and job.version == wanted[job_id]}
        if unknown := wanted.keys() - found.keys():
            read = {job.id: job for job in self._service.get_jobs(project, unknown)}
            self._jobs.update(read)
            found |= read
        return found
