"""Answers that read long histories: a few at a time, so that memory and time are bounded whoever asks."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

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
LOOK_S = 1.0
"""How often whoever waits looks whether a reader holds a turn for too long."""
GRACE_S = 10.0
"""How long all the waiting for one reader may take, beyond the time that its pace allows for."""
LEAST_BYTES_PER_S = 256 * 2**10
"""The pace of a reader who keeps a turn that others wait for, before compression: a line of some 2 Mbit/s. So nobody
holds a turn by reading drop by drop, and whoever reads slowly may do so as long as nobody waits."""
RETRY_S = 5.0
"""How soon to come again where too many wait."""
LONG_STEPS = 200_000
"""Values of a history, a loss or a measure each, from which on it is long: they are read in a tenth of a second."""
LONG_DIRECTIVES = 2_000
"""Directives of a history from which on it is long."""

VERY_LONG_DIRECTIVES = 10_000
"""Directives of a history from which on laying it out takes some hundred megabytes, so that it is done for one at a
time: at the cap on directives it takes 370 MB. Reading it part by part takes no more than for any other."""


def is_very_long(job: StoredJob) -> bool:
    """Whether an answer that lays out a job's history is the only one of its kind meanwhile."""
    return job.state.directive.number > VERY_LONG_DIRECTIVES


def is_long(job: StoredJob) -> bool:
    """Whether an answer that reads all of a job's history needs a turn."""
    state = job.state
    values = state.run_steps * (1 + len(state.config.measures))
    return values > LONG_STEPS or state.directive.number > LONG_DIRECTIVES


class Turn:
    """The turn of one answer, and how its reader takes the answer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins; `clock` measures how long the reader is waited for, in seconds."""
        self._clock = clock
        self._n_bytes, self._waited_s = 0, 0.0
        self._since: float | None = None
        self._cut: Callable[[], object] | None = None

    @contextlib.contextmanager
    def cut_by(self, cut: Callable[[], object]) -> Iterator[None]:
        """While the answer is sent: what ends it, where its reader is too slow for those who wait."""
        self._cut = cut
        try:
            yield
        finally:
            self._cut = None

    @contextlib.contextmanager
    def taking(self, n_bytes: int) -> Iterator[None]:
        """The time in which the reader takes so many bytes."""
        began = self._since = self._clock()
        try:
            yield
        finally:
            self._waited_s += self._clock() - began
            self._n_bytes += n_bytes
            self._since = None

    @property
    def is_late(self) -> bool:
        """Whether its reader is slower than one may be while others wait."""
        now_s = 0.0 if self._since is None else self._clock() - self._since
        return self._waited_s + now_s > GRACE_S + self._n_bytes / LEAST_BYTES_PER_S

    def cut(self) -> None:
        """Ends the answer, if it is being sent; once."""
        cut, self._cut = self._cut, None
        if cut is not None:
            cut()


class LongReads:
    """The turns of long answers, which belong to one event loop. Projects take turns, and requests of one in order."""

    def __init__(
        self,
        slots: int = SLOTS,
        waiting: int = WAITING,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Lets `slots` be worked on at a time, and `waiting` wait for up to `wait_s` seconds; `clock`: see `Turn`."""
        self._slots, self._most_waiting, self._wait_s = slots, waiting, wait_s
        self._clock = clock
        self._of_one = min(SLOTS_OF_ONE, slots)
        self._running: collections.Counter[str] = collections.Counter()
        self._turns: dict[Turn, str] = {}
        """The turns that have come, with their projects."""
        self._very_long = asyncio.Lock()
        self._waiting: collections.OrderedDict[str, collections.deque[asyncio.Future[None]]] = collections.OrderedDict()
        """By project, the one first whose turn is next."""

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    @contextlib.asynccontextmanager
    async def turn(self, project: str, *, very_long: bool = False) -> AsyncIterator[Turn]:
        """A turn, once it has come.

        Args:
            project: whose it is.
            very_long: whether it waits for others of the kind too, as it lays out a history that is very long.

        Raises: BusyError: too many wait, or it did not come in time.
        """
        await self._begin(project)
        turn = Turn(self._clock)
        self._turns[turn] = project
        try:
            async with self._alone(very_long):
                yield turn
        finally:
            del self._turns[turn]
            self._running[project] -= 1
            self._admit()

    @contextlib.asynccontextmanager
    async def _alone(self, very_long: bool) -> AsyncIterator[None]:
        if not very_long:
            yield
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._very_long.acquire()
        except TimeoutError as error:
            message = f"another very long history was being laid out for {self._wait_s:g} s; come again later"
            raise BusyError(message, RETRY_S) from error
        try:
            yield
        finally:
            self._very_long.release()

    async def _begin(self, project: str) -> None:
        queue = self._waiting.setdefault(project, collections.deque())
        if self.n_waiting >= self._most_waiting or len(queue) >= WAITING_OF_ONE:
            raise BusyError(f"{self.n_waiting} requests wait for long histories; come again later", RETRY_S)
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(coming)
        self._admit()
        try:
            async with asyncio.timeout(self._wait_s):
                while not coming.done():
                    self._cut_late(project)
                    await asyncio.wait({coming}, timeout=LOOK_S)
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

    def _cut_late(self, project: str) -> None:
        """Ends an answer whose reader is too slow, where its turn would be one for this project."""
        own = self._running[project] >= self._of_one
        late = (turn for turn, whose in self._turns.items() if turn.is_late and (whose == project or not own))
        if (turn := next(late, None)) is not None:
            turn.cut()

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
