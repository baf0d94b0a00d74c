"""Signs of clients, gathered and written together: a sign is worth a moment's delay, and no commit of its own."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable

import structlog

from tuner_server.base.closing import Closing
from tuner_server.core.errors import TunerError
from tuner_server.storage import Storage

INTERVAL_S = 5.0
"""Seconds between two writes, at most."""
MAX_GATHERED = 100_000
"""Jobs whose signs wait, at most: some tens of megabytes. Further ones are dropped; their clients give others."""
log = structlog.get_logger(__name__)


class SignWriter(Closing):
    """Takes signs from any thread, and writes them in a thread of its own, from its making until `close`."""

    def __init__(self, storage: Storage, now: Callable[[], datetime.datetime]) -> None:
        """Writes to `storage`; `now` dates the signs."""
        self._storage, self._now = storage, now
        # With short limits, as in tests, a sign that is written late would come too late.
        self._interval_s = min(INTERVAL_S, storage.life_limits.grain.total_seconds())
        self._gathered: dict[tuple[str, str], datetime.datetime] = {}
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="signs", daemon=True)
        self._thread.start()

    def add(self, project: str, job_id: str) -> None:
        """Takes a sign of a job's client, of now."""
        with self._changed:
            if len(self._gathered) < MAX_GATHERED or (project, job_id) in self._gathered:
                self._gathered[project, job_id] = self._now()
                self._changed.notify()

    def drop(self, project: str, job_id: str) -> None:
        """Forgets a sign that waits: its client has left since."""
        with self._changed:
            self._gathered.pop((project, job_id), None)

    def __len__(self) -> int:
        return len(self._gathered)

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
            signs, self._gathered = self._gathered, {}
        try:
            self._storage.sign(signs)
            self._failed = False
        except Exception as error:
            if not self._failed:
                log.warning("signs could not be written", jobs=len(signs), exc_info=not isinstance(error, TunerError))
            self._failed = True
            with self._changed:
                self._gathered = signs | self._gathered
