"""Signs of clients, gathered and written together: a sign is worth a moment's delay, and no commit of its own."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Callable, Iterable, Sequence

import structlog

from tuner_server.base.closing import Closing
from tuner_server.core.errors import QuotaError, TunerError
from tuner_server.service.revival import revived
from tuner_server.storage import Storage

INTERVAL_S = 5.0
"""Seconds between two writes, at most."""
MAX_GATHERED = 10_000
"""Jobs of one project whose signs wait, at most. Further ones are dropped; their clients give others."""
MAX_WRITTEN = 100
"""Signs that are written in one transaction, for which reports wait."""
Giver = tuple[str, str]
"""Who gives a sign: the id of the job, and the name with which the client took it back last."""
Sign = tuple[tuple[str, Giver], datetime.datetime]
"""A sign: the project, who gave it, and when."""
log = structlog.get_logger(__name__)


class SignWriter(Closing):
    """Takes signs from any thread, and writes them in a thread of its own, from its making until `close`."""

    def __init__(self, storage: Storage, now: Callable[[], datetime.datetime]) -> None:
        """Writes to `storage`; `now` dates the signs."""
        self._storage, self._now = storage, now
        # With short limits, as in tests, a sign that is written late would come too late.
        self._interval_s = min(INTERVAL_S, storage.life_limits.grain.total_seconds())
        self._gathered: dict[str, dict[Giver, datetime.datetime]] = {}
        """The times of the signs, by project and by who gave them."""
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._failed = False
        self._start()

    def _start(self) -> None:
        """Has the thread write; whoever steps a writer by himself replaces this, `add` and `close`."""
        self._thread = threading.Thread(target=self._run, name="signs", daemon=True)
        self._thread.start()

    def add(self, project: str, job_id: str, resume_id: str) -> None:
        """Takes a sign of a job's client, of now; `resume_id` is that with which the client took the job back last."""
        giver = job_id, resume_id
        with self._changed:
            signs = self._gathered.setdefault(project, {})
            if len(signs) < MAX_GATHERED or giver in signs:
                signs[giver] = self._now()
                self._changed.notify()

    def drop(self, project: str, job_id: str, resume_id: str) -> None:
        """Forgets a sign that waits: its client has left since."""
        with self._changed:
            self._gathered.get(project, {}).pop((job_id, resume_id), None)

    def __len__(self) -> int:
        return sum(map(len, self._gathered.values()))

    def close(self) -> None:
        """Writes what is waiting, and ends the thread."""
        self._closed.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._gathered or self._closed.is_set())
            self._closed.wait(self._interval_s)
            self._write()
        self._write()

    def _write(self) -> None:
        with self._changed:
            gathered, self._gathered = self._gathered, {}
        waiting = [((project, giver), at) for project, signs in gathered.items() for giver, at in signs.items()]
        try:
            while waiting:
                self._note(waiting[-MAX_WRITTEN:])
                del waiting[-MAX_WRITTEN:]
            self._failed = False
        except Exception as error:
            if not self._failed:
                log.warning("signs could not be written", jobs=len(waiting), exc_info=not isinstance(error, TunerError))
            self._failed = True
            self._keep(waiting)

    def _note(self, signs: Sequence[Sign]) -> None:
        """Writes those signs that come from whoever has the job now.

        Whoever takes a job back between the look and the writing has given a later sign by that. Clients that were away
        come back as far as their projects have room; the others stay what they are, and give further signs.
        """
        jobs = self._storage.load_all({job_id for (_, (job_id, _)), _ in signs})
        owned = {(job.project, (job.id, job.state.resumed_as)): job for job in jobs}
        present = {}
        for (project, giver), at in signs:
            job = owned.get((project, giver))
            if job is None:
                continue
            with contextlib.suppress(QuotaError):
                if not revived(self._storage, job, at):
                    present[project, job.id] = at
        self._storage.sign(present)

    def _keep(self, waiting: Iterable[Sign]) -> None:
        """Takes back signs that could not be written, but for those of which there are newer ones by now."""
        with self._changed:
            for (project, giver), at in waiting:
                self._gathered.setdefault(project, {}).setdefault(giver, at)
