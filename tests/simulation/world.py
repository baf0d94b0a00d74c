"""Time, chance, and tasks of which one runs at a time: everything that happens follows from the seed.

A task is a greenlet, so that code that waits (the client's transport, a thread of a server) is simulated as it is.
Tasks change where one waits and nowhere else.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import heapq
import random
import uuid
from collections import Counter
from collections.abc import Callable

import greenlet

BEGINNING = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
MOST_EVENTS = 200_000
"""Events of a history; one with more is going round in circles."""


class Killed(BaseException):
    """The process that a task belongs to is gone."""


class LivelockError(Exception):
    """A history does not come to its end."""


class Task:
    """Something that runs, and waits now and then."""

    def __init__(self, world: World, run: Callable[[], None]) -> None:
        self._greenlet = greenlet.greenlet(run, parent=world.hub)
        self._world = world
        self._turn = 0
        self.killed = False
        """Whether its process is gone."""

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return bool(self._greenlet.dead)

    def waker(self) -> Callable[[], None]:
        """Lets the task go on from where it waits next, once, and no later wait of it."""
        self._turn += 1
        turn = self._turn

        def wake() -> None:
            if turn == self._turn and not self.ended:
                self._turn += 1
                self._world.current = self
                self._greenlet.switch()

        return wake

    def kill(self) -> None:
        """Ends the task where it waits. What it catches of that does not make it live on: see `World.sleep`."""
        self.killed = True
        self._turn += 1
        while self._greenlet and not self.ended:
            self._world.current = self
            with contextlib.suppress(Killed):
                self._greenlet.throw(Killed)


class World:
    """A seed, the clock that follows from it, and what is still to happen."""

    def __init__(self, seed: int | str) -> None:
        self.chance = random.Random(seed)
        """Decides everything that is not decided by code under test."""
        self.time_s = 0.0
        """Seconds since the beginning."""
        self.faults: Counter[str] = Counter()
        """What was done to the system, by kind."""
        self.current: Task | None = None
        """The task that runs."""
        self.n_events = 0
        """Events so far."""
        self.lines: list[str] | None = None
        """What happened, in words, if somebody wants to read it."""
        self.hub = greenlet.getcurrent()
        """Where no task runs."""
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._n_scheduled = 0
        self._trace = hashlib.sha256()

    # --- what code under test has in the place of `time` and `uuid` --------------------------------------------------

    def monotonic(self) -> float:
        """The clock of the world, for `time.monotonic`."""
        return self.time_s

    def sleep(self, seconds: float) -> None:
        """Lets others go on for so long, for `time.sleep`. Raises: Killed: the process is gone meanwhile."""
        task = self.current
        assert task is not None, "only tasks wait"
        self.at(seconds, task.waker())
        self.wait()

    def uuid4(self) -> uuid.UUID:
        """A random name, for `uuid.uuid4`."""
        return uuid.UUID(int=self.chance.getrandbits(128), version=4)

    def utc_now(self) -> datetime.datetime:
        """The time of day."""
        return BEGINNING + datetime.timedelta(seconds=self.time_s)

    # --- tasks -------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """A place at which another task may come in between. Raises: Killed."""
        if self.current is not None and self.current.killed:
            raise Killed
        if self.current is not None and self.chance.random() < 0.5:
            self.sleep(self.chance.choice((0.0, 1e-4, 1e-3, 2e-2)))

    def wait(self) -> None:
        """Waits until a waker of this task is called. Raises: Killed."""
        task = self.current
        assert task is not None
        if task.killed:
            raise Killed
        self.hub.switch()
        if task.killed:
            raise Killed

    def spawn(self, run: Callable[[], None], delay_s: float = 0.0) -> Task:
        """A task that begins soon."""

        def guarded() -> None:
            try:
                run()
            except Killed:
                if not task.killed:
                    raise

        task = Task(self, guarded)
        self.at(delay_s, task.waker())
        return task

    def at(self, delay_s: float, call: Callable[[], None]) -> None:
        """Has something happen after so many seconds; of what is due at the same time, chance decides."""
        self._n_scheduled += 1
        order = self.chance.getrandbits(20) << 40 | self._n_scheduled
        heapq.heappush(self._coming, (self.time_s + max(delay_s, 0.0), order, call))

    def run(self, done: Callable[[], bool]) -> None:
        """Lets things happen until it is done. Raises: LivelockError: it goes on for ever, or nothing happens."""
        while not done():
            if self.n_events >= MOST_EVENTS or not self._coming:
                raise LivelockError(f"{self.n_events} events, {len(self._coming)} to come, and no end")
            self.n_events += 1
            time_s, _, call = heapq.heappop(self._coming)
            self.time_s = max(self.time_s, time_s)
            call()
            self.current = None

    # --- what is told afterwards -------------------------------------------------------------------------------------

    def note(self, *words: object) -> None:
        """Writes down what happened: into the trace whose digest equal histories share."""
        line = f"{self.time_s:.6f} " + " ".join(map(str, words))
        self._trace.update(line.encode() + b"\n")
        if self.lines is not None:
            self.lines.append(line)

    def fault(self, kind: str, *words: object) -> None:
        """Writes down that something was done to the system."""
        self.faults[kind] += 1
        self.note("FAULT", kind, *words)

    @property
    def trace(self) -> str:
        """The digest of all that happened."""
        return self._trace.hexdigest()
