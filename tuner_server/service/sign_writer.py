"""Signs of clients, gathered and written together: a sign is worth a moment's delay, and no commit of its own."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterable

import structlog

from tuner_server.base.closing import Closing
from tuner_server.core.errors import TunerError
from tuner_server.storage import Storage

INTERVAL_S = 5.0
"""Seconds between two writes, at most."""
MAX_GATHERED = 10_000
"""Jobs of one project whose signs wait, at most. Further ones are dropped; their clients give others."""
MAX_WRITTEN = 100
"""Signs that are written in one transaction, for which reports wait."""
log = structlog.get_logger(__name__)


class SignWriter(Closing):
    """Takes signs from any thread, and writes them in a thread of its own, from its making until `close`."""

    def __init__(self, storage: Storage, now: Callable[[], datetime.datetime]) -> None:
        """Writes to `storage`; `now` dates the signs."""
        self._storage, self._now = storage, now
        # With short limits, as in tests, a sign that is written late would come too late.
        self._interval_s = min(INTERVAL_S, storage.life_limits.grain.total_seconds())
        self._gathered: dict[str, dict[str, datetime.datetime]] = {}
        """The times of the signs, by project and job."""
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._failed = False
        self._start()

    def _start(self) -> None:
        """Has the thread write; whoever steps a writer by himself replaces this, `add` and `close`."""
        self._thread = threading.Thread(target=self._run, name="signs", daemon=True)
        self._thread.start()

    def add(self, project: str, job_id: str) -> None:
        """Takes a sign of a job's client, of now."""
        with self._changed:
            signs = self._gathered.setdefault(project, {})
            if len(signs) < MAX_GATHERED or job_id in signs:
                signs[job_id] = self._now()
                self._changed.notify()

    def drop(self, project: str, job_id: str) -> None:
        """Forgets a sign that waits: its client has left since."""
        with self._changed:
            self._gathered.get(project, {}).pop(job_id, None)

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
        waiting = [((project, job_id), at) for project, signs in gathered.items() for job_id, at in signs.items()]
        try:
            while waiting:
                self._storage.sign(dict(waiting[-MAX_WRITTEN:]))
                del waiting[-MAX_WRITTEN:]
            self._failed = False
        except Exception as error:
            if not self._failed:
                log.warning("signs could not be written", jobs=len(waiting), exc_info=not isinstance(error, TunerError))
            self._failed = True
            self._keep(waiting)

    def _keep(self, waiting: Iterable[tuple[tuple[str, str], datetime.datetime]]) -> None:
        """Takes back signs that could not be written, but for those of which there are newer ones by now."""
        with self._changed:
            for (project, job_id), at in waiting:
                self._gathered.setdefault(project, {}).setdefault(job_id, at)
