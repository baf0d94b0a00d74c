"""Deletes what interrupted deletions have left, so that nobody has to prune for it."""

from __future__ import annotations

import threading

import structlog

from tuner_server.base.closing import Closing
from tuner_server.base.interest import Interest
from tuner_server.core.errors import AbandonedError, TunerError
from tuner_server.storage import Storage

INTERVAL_S = 3600.0
"""Seconds between two looks: a deletion is interrupted when its process is killed, or its database goes away."""
log = structlog.get_logger(__name__)


class Sweeper(Closing):
    """Looks at the start and once an hour, in a thread of its own, from its making until `close`."""

    def __init__(self, storage: Storage) -> None:
        """Deletes in `storage`, of which other processes may be at the same jobs."""
        self._storage = storage
        self._interest = Interest()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. What it was deleting goes on the next time."""
        self._interest.end()
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                if n_jobs := self._storage.sweep(self._interest.check):
                    log.info("the rest of deleted jobs was deleted", jobs=n_jobs)
            except AbandonedError:
                return
            except Exception as error:
                known = isinstance(error, TunerError)
                log.warning("the rest of deleted jobs is there still", why=str(error), exc_info=not known)
            if self._closed.wait(INTERVAL_S):
                return
