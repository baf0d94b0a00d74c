"""How answers are worked on: in threads, long ones a few at a time, and only as long as somebody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import ParamSpec, TypeVar

import anyio
import structlog
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from tuner_server.base.interest import Interest
from tuner_server.core.errors import AbandonedError
from tuner_server.service.long_reads import SLOTS, LongReads, Turn, is_long, is_very_long
from tuner_server.storage import StoredJob

THREADS = 4
"""Threads that read and lay out. They are not those that answer training jobs, which go first."""
STALL_S = 30.0
"""How long a download waits for its reader to take the next part."""
P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger(__name__)


class Answering:
    """The threads of one process that work on answers for browsers."""

    def __init__(self, long_reads: LongReads) -> None:
        """Long answers take turns with those of other ports, in `long_reads`."""
        self._long_reads = long_reads
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._long_limiter = anyio.CapacityLimiter(SLOTS)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in a thread."""
        return await run_sync(functools.partial(function, *args, **kwargs), limiter=self._limiter)

    async def wanted(self, request: Request, jobs: list[StoredJob], function: Callable[[Interest], T]) -> T:
        """Calls a function that reads the histories of some jobs, until the one who asks has left.

        Raises:
            BusyError: too many ask for long histories.
            AbandonedError: they have left.
        """
        interest, waiting = Interest(), anyio.CancelScope()
        watching = asyncio.create_task(_left(request, interest, waiting))
        try:
            async with self._turn(jobs, waiting, very_long=any(map(is_very_long, jobs))) as (limiter, _):
                return await run_sync(functools.partial(function, interest), limiter=limiter)
        finally:
            interest.end()
            watching.cancel()

    async def download(
        self,
        request: Request,
        job: StoredJob,
        make: Callable[[Interest], Iterator[str]],
        media_type: str,
        headers: Mapping[str, str],
    ) -> Download:
        """A text that reads a job's history while it is sent.

        Raises:
            BusyError: too many ask for long histories.
            AbandonedError: they have left.
            TunerError: whatever the first part of it raises.
        """
        stack = contextlib.AsyncExitStack()
        interest, waiting = Interest(), anyio.CancelScope()
        stack.callback(interest.end)
        # From the first part on the response does.
        watching = asyncio.create_task(_left(request, interest, waiting))
        try:
            limiter, turn = await stack.enter_async_context(self._turn([job], waiting))
            parts = make(interest)
            # The first part has the status: what goes wrong later only breaks the transfer off.
            first = await _next(parts, limiter)
        except BaseException:
            await stack.aclose()
            raise
        finally:
            watching.cancel()

        async def body() -> AsyncIterator[str]:
            part = first
            while part is not None:
                yield part
                part = await _next(parts, limiter)

        return Download(body(), stack, turn, media_type, headers)

    @contextlib.asynccontextmanager
    async def _turn(
        self, jobs: list[StoredJob], waiting: anyio.CancelScope, *, very_long: bool = False
    ) -> AsyncIterator[tuple[anyio.CapacityLimiter, Turn]]:
        """The threads for what reads some jobs of one project. Who has left keeps no place among those who wait."""
        if not any(map(is_long, jobs)):
            yield self._limiter, Turn()  # which nobody waits for
            return
        async with contextlib.AsyncExitStack() as stack:
            turn: Turn | None = None
            with waiting:
                turn = await stack.enter_async_context(self._long_reads.turn(jobs[0].project, very_long=very_long))
            if turn is None:
                raise AbandonedError("nobody waits for this answer any more")
            yield self._long_limiter, turn


class Download(StreamingResponse):
    """A file that is made while it is sent. What it holds is let go at its end, however it ends."""

    def __init__(
        self,
        parts: AsyncIterator[str],
        held: contextlib.AsyncExitStack,
        turn: Turn,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(parts, media_type=media_type, headers=headers)
        self._held, self._turn = held, turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, until its reader has left or takes no more."""

        async def patient(message: Message) -> None:
            with self._turn.taking(len(message.get("body", b""))):
                async with asyncio.timeout(STALL_S):
                    await send(message)

        async with self._held:
            if scope["method"] == "HEAD":  # nothing of it would be sent
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            sending = anyio.CancelScope()
            try:
                with sending, self._turn.cut_by(sending.cancel):
                    await super().__call__(scope, receive, patient)
            except TimeoutError:
                log.warning("download broken off: its reader took nothing", seconds=STALL_S, path=scope["path"])
            if sending.cancelled_caught:
                log.warning("download broken off: its reader was slow while others waited", path=scope["path"])


async def _next(parts: Iterator[str], limiter: anyio.CapacityLimiter) -> str | None:
    """The next part; None: there is none. A thread whose reader has left is not waited for: it sees that itself."""
    return await run_sync(next, parts, None, limiter=limiter, abandon_on_cancel=True)


async def _left(request: Request, interest: Interest, waiting: anyio.CancelScope) -> None:
    """Ends an interest, and the wait for a turn, when the one who asks has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    interest.end()
    waiting.cancel()
