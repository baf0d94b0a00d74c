"""Looks every second whether a process can do its work, so that whoever asks is answered at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from tuner_server.base.clock import utc_now
from tuner_server.base.failures import FAILURES
from tuner_server.core.errors import TunerError
from tuner_server.ops.metrics import ServerMetrics
from tuner_server.process.worker_protocol import Health
from tuner_server.service.pipeline import ReportPipeline
from tuner_server.storage import Storage

INTERVAL_S = 1.0
"""Seconds between two looks."""
ANSWER_S = 2.0
"""A database that takes longer to answer is as good as away."""
WRITE_INTERVAL_S = 5.0
"""Seconds between two writes, each of which waits for the disk. After a call that failed, and until a write has been
taken again, there is one at each look."""
COUNT_INTERVAL_S = 15.0
"""Seconds between two counts of the jobs in the database, each of which reads an index from end to end, and between two
looks at its size and its last backup."""


class HealthMonitor:
    """Asks the database. It belongs to one event loop, and is closed after use."""

    def __init__(self, storage: Storage, pipeline: ReportPipeline, metrics: ServerMetrics | None) -> None:
        """Tells `metrics` what it sees."""
        self._storage, self._pipeline, self._metrics = storage, pipeline, metrics
        # A thread of its own: those of the service may all wait for the database.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._asked: asyncio.Future[None] | None = None
        self._count_due = self._write_due = 0.0
        self._failures_seen = 0

    async def check(self) -> Health:
        """Looks once. That takes no longer than ANSWER_S."""
        FAILURES.look()
        if self._asked is None:
            loop = asyncio.get_running_loop()
            self._asked = asyncio.ensure_future(loop.run_in_executor(self._thread, self._look))
        asked = self._asked
        await asyncio.wait({asked}, timeout=ANSWER_S)
        if not asked.done():
            health = Health(f"no answer within {ANSWER_S:g} s")
        else:
            self._asked = None
            error = asked.exception()
            if error is not None and not isinstance(error, TunerError):
                raise error
            health = Health("")
            if error is not None:
                why = "" if error.told == str(error) else str(error)
                health = Health(error.told, lasting=not self._pipeline.alive, why=why)
        if self._metrics:
            self._metrics.database_answers(not health.problem)
            self._metrics.pipeline_stands(*self._pipeline.waiting, self._pipeline.cached_jobs)
        return health

    async def run(self, tell: Callable[[Health], Awaitable[None]]) -> NoReturn:
        """Looks again and again, and tells."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await tell(await self.check())

    def close(self) -> None:
        """Waits for the last answer."""
        self._thread.shutdown()

    def _look(self) -> None:
        self._storage.ping()
        if not self._pipeline.alive:
            raise TunerError("a thread that takes reports has ended; start the server anew")
        if time.monotonic() >= self._write_due or FAILURES.total != self._failures_seen:
            self._write_due = 0.0  # unless it succeeds
            self._failures_seen = FAILURES.total
            self._storage.touch()
            self._write_due = time.monotonic() + WRITE_INTERVAL_S
        if self._metrics and time.monotonic() >= self._count_due:
            self._metrics.jobs_counted(self._storage.live_jobs(utc_now()))
            self._metrics.database_measured(self._storage.size())
            self._metrics.backup_noted(self._storage.last_backup())
            self._count_due = time.monotonic() + COUNT_INTERVAL_S
