"""What one project may use of a server process at a time, so that memory is bounded whatever its clients send."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from tuner_server.access.principal import Principal
from tuner_server.access.token_bucket import TokenBucket
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


class ProjectShare:
    """What one project uses now. It belongs to one event loop."""

    def __init__(self) -> None:
        self.calls = self.streams = self.n_bytes = 0
        """Calls, streams and bytes in use now."""
        self.arriving = asyncio.Semaphore(MAX_ARRIVING)
        """Admits the messages that may be on their way."""
        self._bucket: TokenBucket | None = None

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
        if rate is None:
            self._bucket = None
            return
        if self._bucket is None or self._bucket.rate != rate:
            self._bucket = TokenBucket(rate, now)
        wait_s = self._bucket.take(now)
        if wait_s:
            raise RateError(f"project {caller.project} makes more than {rate:g} calls a second", wait_s)


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
