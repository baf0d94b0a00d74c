"""A cache of the jobs that report here, as they were last seen."""

from __future__ import annotations

import threading

from cachetools import LRUCache

from tuner_server.storage import StoredJob


class JobCache:
    """Jobs as this process last saw them, the least recently used forgotten first. Thread-safe.

    Another process may have moved a job since. Whoever decides on a cached one writes with its version, and learns
    then; whoever refuses because of a cached one looks into the database before.
    """

    def __init__(self, max_jobs: int) -> None:
        self._jobs: LRUCache[str, StoredJob] = LRUCache(max_jobs)
        self._lock = threading.Lock()

    def get(self, job_id: str) -> StoredJob | None:
        """The job, if it is known."""
        with self._lock:
            return self._jobs.get(job_id)

    def put(self, job: StoredJob) -> None:
        """Keeps a job; one that has ended is forgotten, since nobody reports on it again."""
        with self._lock:
            if not job.state.status.live:
                self._jobs.pop(job.id, None)
                return
            self._jobs[job.id] = job

    def forget(self, job_id: str) -> None:
        """Drops a job that turned out to have changed."""
        with self._lock:
            self._jobs.pop(job_id, None)

    def __len__(self) -> int:
        with self._lock:
            return len(self._jobs)
