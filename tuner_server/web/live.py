"""Server-sent events: a browser hears that something changed, and fetches what it shows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import StreamingResponse

from tuner_server.core.errors import TunerError

INTERVAL_S = 1.0
"""How often it is looked: other processes change jobs too, so there is nothing to wait on."""
KEEP_ALIVE = 15
"""Looks after which a comment is sent: proxies close what is silent for long, and a browser that left is noticed."""
RETRY_MS = 2000
"""How long a browser waits before it asks again after the stream broke off."""


def events(version: Callable[[], Awaitable[tuple[str, bool]]], stopping: asyncio.Event) -> StreamingResponse:
    """A stream with an event `change` whenever `version` differs from what it was.

    Args:
        version: what is there now, and whether it may still change; it also refuses who may no longer look.
        stopping: ends the stream; the browser asks again, and finds another worker.
    """
    return StreamingResponse(
        _events(version, stopping), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _events(version: Callable[[], Awaitable[tuple[str, bool]]], stopping: asyncio.Event) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    seen, silent = None, 0
    while not stopping.is_set():
        try:
            now, live = await version()
        except TunerError:
            return  # gone, or no longer this browser's to see; when it asks again it is told
        if now != seen:
            seen, silent = now, 0
            yield f"event: change\ndata: {now}\n\n"
        elif silent >= KEEP_ALIVE:
            silent = 0
            yield ": still here\n\n"
        if not live:
            yield "event: end\ndata: \n\n"
            return
        silent += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), INTERVAL_S)
