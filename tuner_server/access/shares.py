"""What one project may use of a server process at a time, so that memory is bounded whatever its clients send."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager

from pyrate_limiter import Decision, Rate, RateItem, StateBucket, TokenBucket

from tuner_server.access.arrivals import Arrivals
from tuner_server.access.large_messages import LargeMessages
from tuner_server.access.principal import Principal
from tuner_server.core.errors import RateError


class Lane(enum.Enum):
    """What a call is for. Each lane has limits of its own, so that none of them fills another."""

    TRAINING = "training"
    """Jobs that open, report or go on: what a run waits for."""
    READING = "reading"
    """People and programs that look, and all else that needs a token."""
    HEALTH = "health"
    """Probes, which show no token."""


@dataclasses.dataclass(frozen=True, slots=True)
class LaneLimits:
    """What one project may use of a lane at a time."""

    calls: int
    """Calls that are open."""
    streams: int
    """Calls among them that are streams, which stay open: people who watch a job."""
    streams_of_caller: int
    """Streams of one caller."""
    arriving: int
    """Calls whose message is on its way, while the others wait for their turn: so many times the size of the largest
    message may be half-received."""
    arriving_large: int
    """The same of connections that have just sent a large message: they keep none of the other places."""
    n_bytes: int
    """The size of the requests that are being worked on."""
    patience_s: float
    """How long a message may take while another call waits for its place."""
    all_calls: int
    """Calls of all projects together."""


LIMITS: Mapping[Lane, LaneLimits] = {
    Lane.TRAINING: LaneLimits(
        calls=1024,  # as many jobs may report in the same instant
        streams=0,
        streams_of_caller=0,
        arriving=16,
        arriving_large=4,
        n_bytes=16 * 2**20,
        patience_s=2.0,
        all_calls=8192,
    ),
    Lane.READING: LaneLimits(
        calls=512,
        streams=256,
        streams_of_caller=256,
        arriving=8,
        arriving_large=1,  # to be refused
        n_bytes=2 * 2**20,
        patience_s=1.0,
        all_calls=2048,
    ),
    # A probe's message of some bytes comes with its headers, so one that does not is in nobody's way at once.
    Lane.HEALTH: LaneLimits(
        calls=512,
        streams=256,
        streams_of_caller=16,
        arriving=16,
        arriving_large=1,
        n_bytes=2**20,
        patience_s=0.0,
        all_calls=512,
    ),
}
"""The limits of each lane. Training has the larger part, since runs wait for it."""
ARRIVAL_S = 10.0
"""How long a message may be on its way: twice as long as a client waits for its answer."""
BUSY_RETRY_S = 0.5
"""How soon to come again after too much at a time: most calls take milliseconds."""
_RATES = (1e-6, 1e6)
"""Calls a second that are told apart: one in eleven days, and more than a process answers."""


class ProjectShare:
    """What one project uses of one lane now. It belongs to one event loop."""

    def __init__(self, limits: LaneLimits, arrival_s: float, large: LargeMessages) -> None:
        """Holds the project to `limits`, and each message to `arrival_s`; `large` is what all projects share."""
        self._limits = limits
        self.calls = self.streams = self.n_bytes = 0
        """Calls, streams and bytes in use now."""
        self._arrivals = Arrivals(limits.arriving, arrival_s, limits.patience_s)
        self._large_arrivals = Arrivals(limits.arriving_large, arrival_s, limits.patience_s)
        self._large = large
        self._streams_of: Counter[Hashable] = Counter()
        """Streams by their callers."""
        self._rate: float | None = None
        """Calls a second that `_bucket` lets through."""
        self._bucket: StateBucket | None = None

    @contextlib.contextmanager
    def call(self, caller: Principal, now: float, *, streams: bool, source: Hashable) -> Iterator[None]:
        """A call, from its first to its last moment. Raises: RateError: it is one too many."""
        whose = f"of project {caller.project}" if caller.project else "without a token"
        if self.calls >= self._limits.calls:
            raise RateError(f"{self._limits.calls} calls {whose} are open", BUSY_RETRY_S)
        if streams and self.streams >= self._limits.streams:
            raise RateError(f"{self._limits.streams} streams {whose} are open", BUSY_RETRY_S)
        if streams and self._streams_of[source] >= self._limits.streams_of_caller:
            raise RateError(f"{self._limits.streams_of_caller} streams of this caller are open", BUSY_RETRY_S)
        self._check_rate(caller, now)
        self.calls += 1
        if streams:
            self.streams += 1
            self._streams_of[source] += 1
        try:
            yield
        finally:
            self.calls -= 1
            if streams:
                self.streams -= 1
                self._streams_of[source] -= 1
                self._streams_of += Counter()  # drops callers that have none left

    def arrivals(self, connection: Hashable) -> Arrivals:
        """Admits the messages that may be on their way, of such a connection."""
        return self._large_arrivals if self._large.expected_of(connection) else self._arrivals

    async def work(self, connection: Hashable, n_bytes: int) -> AbstractContextManager[None]:
        """The work on a request of a connection, once there is room for it; a context, to be entered at once.

        Raises: RateError: there is no room. The context itself: the project has too many requests.
        """
        await self._large.take_room(connection, n_bytes)
        return self._working(n_bytes)

    @contextlib.contextmanager
    def _working(self, n_bytes: int) -> Iterator[None]:
        began = time.monotonic()
        try:
            if self.n_bytes + n_bytes > self._limits.n_bytes:
                raise RateError(f"requests of {self.n_bytes} bytes are being worked on", BUSY_RETRY_S)
            self.n_bytes += n_bytes
            try:
                yield
            finally:
                self.n_bytes -= n_bytes
        finally:
            self._large.give_back_room(n_bytes, time.monotonic() - began)

    def _check_rate(self, caller: Principal, now: float) -> None:
        rate = caller.max_calls_per_s
        if rate != self._rate:
            self._rate, self._bucket = rate, None if rate is None else _bucket(rate)
        if self._bucket is None:
            return
        decision = self._bucket.put_decision(RateItem(caller.project, int(1000 * now)))
        assert isinstance(decision, Decision)  # at once: it is kept in memory
        if decision.retry_after_ms:
            wait_s = decision.retry_after_ms / 1000
            raise RateError(f"project {caller.project} makes more than {rate:g} calls a second", wait_s)


def _bucket(calls_per_s: float) -> StateBucket:
    """Lets so many calls a second through on average, and as many at once as fit into a second. It is full at first."""
    calls_per_s = min(max(calls_per_s, _RATES[0]), _RATES[1])
    # The library counts in whole calls and milliseconds: in a period so long, any rate is a whole number of calls.
    period_s = 1 / _RATES[0]
    rate = Rate(round(calls_per_s * period_s), int(1000 * period_s), burst=max(int(calls_per_s), 1))
    return StateBucket([rate], TokenBucket())


class Shares:
    """The share of every project in this process: one for all ports, whose calls count alike, on one event loop."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        limits: Mapping[Lane, LaneLimits] = LIMITS,
        arrival_s: float = ARRIVAL_S,
    ) -> None:
        """Holds every project to `limits`, and each message to `arrival_s`; `clock` measures rates, in seconds."""
        self._clock, self._limits, self._arrival_s = clock, limits, arrival_s
        self._large = LargeMessages()
        self._shares: dict[tuple[str, Lane], ProjectShare] = {}
        # Projects are made by operators, so there are few.
        self._n_calls = dict.fromkeys(Lane, 0)
        """Open calls of all projects."""

    @contextlib.contextmanager
    def call(
        self, caller: Principal, lane: Lane = Lane.READING, *, streams: bool, source: Hashable = ""
    ) -> Iterator[ProjectShare]:
        """A call, from its first to its last moment.

        Args:
            caller: whoever calls.
            lane: what the call is for.
            streams: whether it stays open.
            source: what tells callers of a project apart.

        Raises:
            RateError: it is one too many.
        """
        if self._n_calls[lane] >= self._limits[lane].all_calls:
            raise RateError(f"{self._limits[lane].all_calls} calls of all projects are open", BUSY_RETRY_S)
        key = caller.project, lane
        if (share := self._shares.get(key)) is None:
            share = self._shares[key] = ProjectShare(self._limits[lane], self._arrival_s, self._large)
        with share.call(caller, self._clock(), streams=streams, source=source):
            self._n_calls[lane] += 1
            try:
                yield share
            finally:
                self._n_calls[lane] -= 1
