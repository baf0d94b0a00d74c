"""A cache of what jobs did, read from the service."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from cachetools import TTLCache

from tuner_server.base.interest import Interest
from tuner_server.core.errors import AbandonedError
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.service.job_cache import KEPT_S
from tuner_server.service.long_reads import is_very_long
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import StoredJob

MAX_STEPS_KEPT = 8_000_000
"""Steps of all jobs together, four bytes each: 32 MB."""
STEPS_A_SPAN = 1_280
"""What a directive with its decision takes beside its steps, in steps: some 5 KB. Most jobs are short, and take ten
times what their steps do."""
LOOK_S = 0.2
"""How often one that waits for another's timeline looks whether it is still wanted itself."""


class _Coming:
    """A timeline that is laid out now, and those who wait for it."""

    def __init__(self) -> None:
        self.future: Future[Timeline] = Future()
        self.interests: list[Interest] = []

    def check(self) -> None:
        """Raises: AbandonedError: all have left."""
        if not any(interest.lasts for interest in self.interests):
            raise AbandonedError("nobody waits for this job's timeline any more")


class TimelineCache:
    """The timelines of jobs, each laid out once for each version of its job in `KEPT_S`. Thread-safe."""

    def __init__(self, service: TunerService) -> None:
        """Reads from `service`."""
        self._service = service
        self._lock = threading.Lock()
        self._kept: TTLCache[str, tuple[int, Timeline]] = TTLCache(MAX_STEPS_KEPT, KEPT_S, getsizeof=_n_steps)
        self._coming: dict[tuple[str, int], _Coming] = {}
        """Timelines that are laid out now, by job and version. The requests of a page wait for the first of them."""

    def get(self, project: str, job_id: str, interest: Interest) -> tuple[StoredJob, Timeline]:
        """A job, and all that it did until then.

        Args:
            project: the caller's.
            job_id: the job's id.
            interest: of whoever asks; once all who ask have left, the timeline is not finished.

        Raises:
            NotFoundError: no such job.
            AbandonedError: nobody waits for it any more.
            StorageError: the database can't be read.
        """
        job = self._service.get_job(project, job_id)
        while True:
            found = self._found(job, interest)
            if found is not None:
                return job, found

    def _found(self, job: StoredJob, interest: Interest) -> Timeline | None:
        """The timeline of a job; None: whoever laid it out was left by all, in the moment in which we came."""
        with self._lock:
            version, kept = self._kept.get(job.id, (-1, None))
            if kept is not None and version == job.version:
                return kept
            ours = _Coming()
            coming = self._coming.setdefault((job.id, job.version), ours)
            coming.interests.append(interest)
        if coming is ours:
            return self._laid_out(job, ours)
        while True:
            try:
                return coming.future.result(LOOK_S)
            except TimeoutError:
                interest.check()
            except AbandonedError:
                interest.check()
                return None

    def _laid_out(self, job: StoredJob, ours: _Coming) -> Timeline:
        if is_very_long(job):
            with self._lock:
                self._kept.clear()  # before, since another one may be as long
        try:
            found = timeline(self._service.history(job, ours.check), maximises=job.state.config.maximises)
        except BaseException as error:
            with self._lock:
                del self._coming[job.id, job.version]
            ours.future.set_exception(error)
            raise
        with self._lock:
            del self._coming[job.id, job.version]
            self._kept.pop(job.id, None)  # before, or room would be made for both
            self._kept[job.id] = job.version, found
        ours.future.set_result(found)
        return found


def _n_steps(kept: tuple[int, Timeline]) -> int:
    """What a history takes of `MAX_STEPS_KEPT`; the latest is kept however long it is, and the others go for it."""
    found = kept[1]
    return min(found.n_steps + STEPS_A_SPAN * len(found.spans), MAX_STEPS_KEPT)
