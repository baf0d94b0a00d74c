"""Answers that read long histories: a few at a time, so that memory and time are bounded whoever asks."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator

from tuner_server.core.errors import BusyError
from tuner_server.storage import StoredJob

SLOTS = 4
"""Long answers that are worked on at a time, to their last byte."""
SLOTS_OF_ONE = 3
"""Those of one project: one is left for the others."""
WAITING = 16
"""Requests that may wait for their turn."""
WAITING_OF_ONE = 12
"""Those of one project."""
WAIT_S = 30.0
"""How long one waits: browsers and proxies give up after a minute."""
RETRY_S = 5.0
"""How soon to come again where too many wait."""
LONG_STEPS = 200_000
"""Values of a history, a loss or a measure each, from which on it is long: they are read in a tenth of a second."""
LONG_DIRECTIVES = 2_000
"""Directives of a history from which on it is long."""


def is_long(job: StoredJob) -> bool:
    """Whether an answer that reads all of a job's history needs a turn."""
    state = job.state
    values = state.run_steps * (1 + len(state.config.measures))
    return values > LONG_STEPS or state.directive.number > LONG_DIRECTIVES


class LongReads:
    """The turns of long answers, which belong to one event loop. Projects take turns, and requests of one in order."""

    def __init__(self, slots: int = SLOTS, waiting: int = WAITING, wait_s: float = WAIT_S) -> None:
        """Lets `slots` be worked on at a time, and `waiting` wait for up to `wait_s` seconds."""
        self._slots, self._most_waiting, self._wait_s = slots, waiting, wait_s
        self._of_one = min(SLOTS_OF_ONE, slots)
        self._running: collections.Counter[str] = collections.Counter()
        self._waiting: collections.OrderedDict[str, collections.deque[asyncio.Future[None]]] = collections.OrderedDict()
        """By project, the one first whose turn is next."""

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    @contextlib.asynccontextmanager
    async def turn(self, project: str) -> AsyncIterator[None]:
        """A turn, once it has come. Raises: BusyError: too many wait, or it did not come in time."""
        await self._begin(project)
        try:
            yield
        finally:
            self._running[project] -= 1
            self._admit()

    async def _begin(self, project: str) -> None:
        queue = self._waiting.setdefault(project, collections.deque())
        if self.n_waiting >= self._most_waiting or len(queue) >= WAITING_OF_ONE:
            raise BusyError(f"{self.n_waiting} requests wait for long histories; come again later", RETRY_S)
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(coming)
        self._admit()
        try:
            async with asyncio.timeout(self._wait_s):
                await coming
        except BaseException as error:
            if coming.done() and not coming.cancelled():
                self._running[project] -= 1  # its turn came in the moment in which it gave up
            elif coming in queue:
                queue.remove(coming)
            self._admit()
            if isinstance(error, TimeoutError):
                message = f"other long histories were being read for {self._wait_s:g} s; come again later"
                raise BusyError(message, RETRY_S) from error
            raise

    def _admit(self) -> None:
        """Gives turns to those who wait, as far as there are any."""
        while self._running.total() < self._slots:
            project = next((name for name, queue in self._waiting.items() if self._may(name, queue)), None)
            if project is None:
                break
            self._running[project] += 1
            self._waiting[project].popleft().set_result(None)
            self._waiting.move_to_end(project)
        for name in [name for name, queue in self._waiting.items() if not queue]:
            del self._waiting[name]

    def _may(self, project: str, queue: collections.deque[asyncio.Future[None]]) -> bool:
        while queue and queue[0].done():
            queue.popleft()  # cancelled
        return bool(queue) and self._running[project] < self._of_one
