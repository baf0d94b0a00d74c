"""Server-sent events, by which a browser hears that something changed; it then fetches what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent

from tuner_server.core.errors import TunerError

INTERVAL_S = 1.0
"""Seconds between two polls: other processes change jobs too, so there is nothing to wait on."""
HEARTBEAT_S = 15
"""Seconds between two signs of life: proxies close what is silent for long, a browser that left is noticed, and one
that hears nothing for three times as long asks again (live.js)."""
LIFETIME_S = 120.0
"""How long a stream lives, and up to a quarter longer: not all end at once. The browser asks again. What it left behind
in the hands of a proxy that forgot it, which no sign of life can tell, is gone then."""
RETRY_MS = 2000
"""How long a browser waits before it asks again after the stream broke off."""

K = TypeVar("K", bound=Hashable)
Version = tuple[str, bool]
"""The version of what is there now, and whether it may still change."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Poll:
    begun: float
    """The time on the loop's clock at which it began."""
    task: asyncio.Task[Version]


class VersionPoller(Generic[K]):
    """Polls the versions of things, each at most once in `INTERVAL_S`, however many streams ask, on one event loop."""

    def __init__(self, read: Callable[[K], Awaitable[Version]], interval_s: float = INTERVAL_S) -> None:
        """Polls with `read`."""
        self._read, self._interval_s = read, interval_s
        self._latest: dict[K, _Poll] = {}

    async def __call__(self, key: K) -> Version:
        """The version now, or no longer than `INTERVAL_S` ago. Raises: what `read` does."""
        now = asyncio.get_running_loop().time()
        if key not in self._latest or self._old(self._latest[key], now):
            # Nobody asks any more for those that are old by now.
            self._latest = {other: poll for other, poll in self._latest.items() if not self._old(poll, now)}
            task = asyncio.create_task(self._polled(key))
            task.add_done_callback(_seen)
            self._latest[key] = _Poll(now, task)
        # Shielded: one of those that wait may leave.
        return await asyncio.shield(self._latest[key].task)

    def _old(self, poll: _Poll, now: float) -> bool:
        return poll.task.done() and now - poll.begun >= self._interval_s

    async def _polled(self, key: K) -> Version:
        return await self._read(key)


def _seen(task: asyncio.Task[Version]) -> None:
    """Looks at what came of a poll: all who waited may have left, and the loop logs an error that nobody has seen."""
    if not task.cancelled():
        task.exception()


def events(version: Callable[[], Awaitable[Version]], stopping: asyncio.Event) -> EventSourceResponse:
    """A stream with an event `change` whenever `version` differs from what it was.

    Args:
        version: what is there now, and whether it may still change; it also refuses who may no longer look.
        stopping: ends the stream; the browser asks again, and finds another worker.
    """
    lifetime_s = LIFETIME_S * random.uniform(1.0, 1.25)
    return EventSourceResponse(
        _events(version, stopping, lifetime_s), ping=HEARTBEAT_S, ping_message_factory=_heartbeat
    )


def _heartbeat() -> ServerSentEvent:
    """A sign of life, which scripts hear, too: a comment would not reach them."""
    return ServerSentEvent(event="alive", data="")


async def _events(
    version: Callable[[], Awaitable[Version]], stopping: asyncio.Event, lifetime_s: float
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(retry=RETRY_MS)
    seen = None
    end_s = asyncio.get_running_loop().time() + lifetime_s
    while not stopping.is_set() and asyncio.get_running_loop().time() < end_s:
        try:
            now, live = await version()
        except TunerError:
            return  # gone, or no longer this browser's to see; when it asks again it is told
        if now != seen:
            seen = now
            yield ServerSentEvent(event="change", data=now)
        if not live:
            yield ServerSentEvent(event="end", data="")
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), INTERVAL_S)
