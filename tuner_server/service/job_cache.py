"""A cache of the jobs that report here, as they were last seen."""

from __future__ import annotations

import threading

from cachetools import TTLCache

from tuner_server.storage import StoredJob

KEPT_S = 600.0
"""How long caches keep what is not renewed: a client that crashed never says that it is gone, and nobody asks for a job
that was deleted. So a server takes the memory of what happens now, and not of what has happened since its start."""


class JobCache:
    """Jobs as this process last saw them, forgotten when they were not seen for `KEPT_S`. Thread-safe.

    If there are too many, the least recently used ones go before that.

    Another process may have moved a job since. Whoever decides on a cached one writes with its version, and learns
    then; whoever refuses because of a cached one looks into the database before.
    """

    def __init__(self, max_jobs: int) -> None:
        self._jobs: TTLCache[str, StoredJob] = TTLCache(max_jobs, KEPT_S)
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
