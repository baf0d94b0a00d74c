"""A cache of what jobs did, read from the service."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from cachetools import LRUCache

from tuner_server.history.timeline import Timeline, timeline
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob

MAX_STEPS_KEPT = 4_000_000
"""Steps of all jobs together, eight bytes each: 32 MB."""


class TimelineCache:
    """The timelines of jobs, each laid out once for each version of its job. Thread-safe."""

    def __init__(self, service: TunerService) -> None:
        """Reads from `service`."""
        self._service = service
        self._lock = threading.Lock()
        self._kept: LRUCache[str, tuple[int, Timeline]] = LRUCache(MAX_STEPS_KEPT, _n_steps)
        self._coming: dict[tuple[str, int], Future[Timeline]] = {}
        """Timelines that are laid out now, by job and version. The requests of a page wait for the first of them."""

    def get(self, project: str, job_id: str) -> tuple[StoredJob, Timeline]:
        """A job, and all that it did. Raises: NotFoundError; StorageError."""
        job = self._service.get_job(project, job_id)
        key = job_id, job.version
        with self._lock:
            version, kept = self._kept.get(job_id, (-1, None))
            if kept is not None and version == job.version:
                return job, kept
            coming = self._coming.get(key)
            if coming is None:
                ours = self._coming[key] = Future()
        if coming is not None:
            return job, coming.result()
        try:
            # Newer than `job` if a report came in between; the next look sees the newer version, and reads anew.
            found = timeline(self._service.history(job, losses=True))
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            ours.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._kept.pop(job.id, None)  # before, or room would be made for both
            self._kept[job.id] = job.version, found
        ours.set_result(found)
        return job, found


def _n_steps(kept: tuple[int, Timeline]) -> int:
    """What a history takes of `MAX_STEPS_KEPT`; the latest is kept however long it is, and the others go for it."""
    return min(kept[1].n_steps, MAX_STEPS_KEPT)
