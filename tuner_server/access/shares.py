"""What one project may use of a server process at a time, so that memory is bounded whatever its clients send."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from pyrate_limiter import Decision, Rate, RateItem, StateBucket, TokenBucket

from tuner_server.access.principal import Principal
from tuner_server.core.errors import RateError

MAX_CALLS = 1024
"""Calls of a project at a time: as many jobs may report in the same instant."""
MAX_STREAMS = 256
"""Calls of a project at a time that are streams, which stay open: people who watch a job."""
MAX_ARRIVING = 16
"""Calls of a project at a time whose message is on its way, while the others wait for their turn: so many times
MAX_REPORT_BYTES may be half-received."""
MAX_BYTES = 16 * 2**20
"""The size of a project's requests that are being worked on. In Python a report takes some ten times its bytes."""
BUSY_RETRY_S = 0.5
"""How soon to come again after too much at a time: most calls take milliseconds."""
_RATES = (1e-6, 1e6)
"""Calls a second that are told apart: one in eleven days, and more than a process answers."""


class ProjectShare:
    """What one project uses now. It belongs to one event loop."""

    def __init__(self) -> None:
        self.calls = self.streams = self.n_bytes = 0
        """Calls, streams and bytes in use now."""
        self.arriving = asyncio.Semaphore(MAX_ARRIVING)
        """Admits the messages that may be on their way."""
        self._rate: float | None = None
        """Calls a second that `_bucket` lets through."""
        self._bucket: StateBucket | None = None

    @contextlib.contextmanager
    def call(self, caller: Principal, now: float, *, streams: bool) -> Iterator[None]:
        """A call, from its first to its last moment. Raises: RateError: it is one too many."""
        if self.calls >= MAX_CALLS or (self.streams >= MAX_STREAMS and streams):
            what = f"{MAX_STREAMS} streams" if streams else f"{MAX_CALLS} calls"
            raise RateError(f"{what} of project {caller.project} are open", BUSY_RETRY_S)
        self._check_rate(caller, now)
        self.calls += 1
        self.streams += streams
        try:
            yield
        finally:
            self.calls -= 1
            self.streams -= streams

    @contextlib.contextmanager
    def memory(self, n_bytes: int) -> Iterator[None]:
        """A request that is being worked on. Raises: RateError: there is too much of them."""
        if self.n_bytes + n_bytes > MAX_BYTES:
            raise RateError(f"requests of {self.n_bytes} bytes are being worked on", BUSY_RETRY_S)
        self.n_bytes += n_bytes
        try:
            yield
        finally:
            self.n_bytes -= n_bytes

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

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Measures rates with `clock`, in seconds."""
        self._clock = clock
        self._shares: dict[str, ProjectShare] = {}
        # Projects are made by operators, so there are few.

    @contextlib.contextmanager
    def call(self, caller: Principal, *, streams: bool) -> Iterator[ProjectShare]:
        """A call, from its first to its last moment. Raises: RateError: it is one too many."""
        share = self._shares.setdefault(caller.project, ProjectShare())
        with share.call(caller, self._clock(), streams=streams):
            yield share
