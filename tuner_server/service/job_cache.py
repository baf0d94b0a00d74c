"""A cache of the jobs that report here, as they were last seen."""

from __future__ import annotations

import threading
from collections import OrderedDict

from tuner_server.storage import StoredJob


class JobCache:
    """Jobs as this process last saw them, the least recently used forgotten first. Thread-safe.

    Another process may have moved a job since. Whoever decides on a cached one writes with its version, and learns
    then; whoever refuses because of a cached one looks into the database before.
    """

    def __init__(self, max_jobs: int) -> None:
        self._max_jobs = max_jobs
        self._jobs: OrderedDict[str, StoredJob] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job_id: str) -> StoredJob | None:
        """The job, if it is known."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None:
                self._jobs.move_to_end(job_id)
            return job

    def put(self, job: StoredJob) -> None:
        """Keeps a job; one that has ended is forgotten, since nobody reports on it again."""
        with self._lock:
            if not job.state.status.live:
                self._jobs.pop(job.id, None)
                return
            self._jobs[job.id] = job
            self._jobs.move_to_end(job.id)
            if len(self._jobs) > self._max_jobs:
                self._jobs.popitem(last=False)

    def forget(self, job_id: str) -> None:
        """Drops a job that turned out to have changed."""
        with self._lock:
            self._jobs.pop(job_id, None)

    def __len__(self) -> int:
        with self._lock:
            return len(self._jobs)
