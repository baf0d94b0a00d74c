"""A cache of the list of jobs, for which only what has changed is read from the service."""

from __future__ import annotations

import threading

from cachetools import LRUCache

from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob
from tuner_server.web.pages.listing import NEWEST, STATES, Listing, ListingQuery, listing

MAX_JOBS_KEPT = 4 * NEWEST
"""Jobs of all projects together: measured, 1,000 take some 13 MB."""
MAX_LISTINGS_KEPT = 32
"""Pages that were asked for lately. Each remembers the versions of NEWEST jobs: 0.1 MB."""
_Versions = list[tuple[str, int]]


class ListingCache:
    """The pages of the list. Thread-safe.

    A look reads the id and the version of each job, which is cheap, and then the jobs whose version is not known yet.
    """

    def __init__(self, service: TunerService) -> None:
        """Reads from `service`."""
        self._service = service
        self._lock = threading.Lock()
        self._jobs: LRUCache[str, StoredJob] = LRUCache(MAX_JOBS_KEPT)
        self._kept: LRUCache[tuple[str, ListingQuery], tuple[_Versions, Listing]] = LRUCache(MAX_LISTINGS_KEPT)

    def get(self, project: str, query: ListingQuery) -> Listing:
        """The page that a query asks for, as it is now. Raises: StorageError."""
        versions = self._service.job_versions(project, NEWEST + 1, STATES[query.state], query.family)
        # Held while jobs are read: whoever comes meanwhile would read the same ones.
        with self._lock:
            seen, kept = self._kept.get((project, query), (None, None))
            if kept is not None and seen == versions:
                return kept
            jobs = self._read(project, versions[:NEWEST])
        found = listing(jobs, query, complete=len(versions) <= NEWEST)
        with self._lock:
            self._kept[project, query] = versions, found
        return found

    def _read(self, project: str, versions: _Versions) -> list[StoredJob]:
        """The jobs, those that are known from memory. One that was deleted meanwhile is left out."""
        unknown = [id_ for id_, version in versions if id_ not in self._jobs or self._jobs[id_].version != version]
        if unknown:
            self._jobs.update((job.id, job) for job in self._service.get_jobs(project, unknown))
        return [self._jobs[id_] for id_, _ in versions if id_ in self._jobs]
