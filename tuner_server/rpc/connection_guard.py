"""Makes room on a full gRPC port: closes connections that nobody makes calls on, before a newcomer is turned away.

gRPC's own limit closes whatever comes when the port is full, so strangers who connect and say nothing would keep
training jobs out until their time is over. gRPC tells nobody what connections it has; the process's descriptors do, on
Linux. Shutting a socket down looks to gRPC as if its client had left.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import socket
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc.aio

from tuner_server.base.turned_away import TurnedAway
from tuner_server.rpc.auth import OPEN
from tuner_server.rpc.handlers import Context, Continuation, Handler, rebuilt, streamed

LOOK_S = 0.25
"""Seconds between two looks."""
FULL, ROOMY = 0.9, 0.75
"""A port that is so full is emptied until it is only so full."""
MIN_AGE_S = 1.0
"""How old a connection is at least that is closed: a newcomer needs some round trips before its first call."""
RECENT_S = 60.0
"""A connection with a call in so short a time is in use."""
DESCRIPTORS = "/proc/self/fd"
"""Where Linux lists them."""

Peer = tuple[str, int]
"""The IP address and the port of a connection's other end."""


@dataclasses.dataclass(slots=True)
class _Use:
    """The use of a connection."""

    last_s: float
    """The time of its last call."""
    n_open: int = 0
    """Calls that are open."""


class ConnectionGuard(grpc.aio.ServerInterceptor):
    """Knows which connections are used for calls, and closes others when there is no room. It belongs to one loop.

    It is the last interceptor, so that it sees calls of those alone who may make them.
    """

    def __init__(self, most: int) -> None:
        """Guards a port that may have `most` connections."""
        self._most = most
        self._uses: OrderedDict[Peer, _Use] = OrderedDict()
        """Uses by connection, the latest last."""
        self._seen_since_s: dict[Peer, float] = {}
        """Connections of the last look, each with the time of the first look that saw it."""
        self._turned_away = TurnedAway("listen", most)
        self._guarded: dict[str, tuple[Handler, Handler]] = {}
        """The handler of each method, and the one that notes its uses: they are the same at every call."""

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, which notes the use of its connection."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in OPEN:
            return handler  # health is anybody's to ask for, and says nothing about who does
        known = self._guarded.get(method)
        if known is None or known[0] is not handler:
            known = self._guarded[method] = handler, self._guarding(handler)
        return known[1]

    def _guarding(self, handler: Handler) -> Handler:
        """A handler that notes the use of its connection."""
        behavior: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream

        async def unary(request: Any, context: Context) -> Any:
            with self._call(context.peer()):
                return await behavior(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._call(context.peer()):
                async with contextlib.aclosing(streamed(behavior(request, context))) as responses:
                    async for response in responses:
                        yield response

        return rebuilt(handler, stream if handler.response_streaming else unary)

    @contextlib.contextmanager
    def _call(self, peer: str) -> Iterator[None]:
        """A call of somebody who may call, over the connection of `peer`, which is as gRPC writes it."""
        key = _parsed(peer)
        use = self._uses.setdefault(key, _Use(0.0))
        use.n_open += 1
        try:
            yield
        finally:
            use.n_open -= 1
            use.last_s = time.monotonic()
            self._uses.move_to_end(key)
            while len(self._uses) > 2 * self._most:
                self._uses.popitem(last=False)

    async def watch(self, port: int) -> NoReturn:
        """Looks again and again at the connections to a port."""
        while True:
            await asyncio.sleep(LOOK_S)
            if sys.platform == "linux" and len(os.listdir(DESCRIPTORS)) >= FULL * self._most:
                await self.look(port)

    async def look(self, port: int) -> None:
        """Looks once, and makes room if there is none."""
        connections = await asyncio.to_thread(_connections, port)
        now_s = time.monotonic()
        self._seen_since_s = {peer: self._seen_since_s.get(peer, now_s) for peer in connections}
        if len(connections) >= FULL * self._most:
            self._make_room(connections, now_s, len(connections) - int(ROOMY * self._most))
        for connection in connections.values():
            connection.close()  # our duplicate
        self._turned_away.look(now_s)

    def _make_room(self, connections: dict[Peer, socket.socket], now_s: float, n_most: int) -> None:
        """Closes up to so many: first those without a call, of the addresses that have most; then the least used."""
        unused = [peer for peer in connections if peer not in self._uses and self._age_s(peer, now_s) >= MIN_AGE_S]
        by_address = Counter(address for address, _ in unused)
        unused.sort(key=lambda peer: (-by_address[peer[0]], self._seen_since_s[peer]))
        idle = [
            peer
            for peer, use in self._uses.items()
            if peer in connections and use.n_open == 0 and now_s - use.last_s > RECENT_S
        ]
        for peer in (*unused, *idle)[:n_most]:
            with contextlib.suppress(OSError):
                connections[peer].shutdown(socket.SHUT_RDWR)
                self._turned_away.ended += 1

    def _age_s(self, peer: Peer, now_s: float) -> float:
        return now_s - self._seen_since_s[peer]


def _connections(port: int) -> dict[Peer, socket.socket]:
    """Duplicates of this process's connections to a port of its own."""
    found: dict[Peer, socket.socket] = {}
    for name in os.listdir(DESCRIPTORS):
        try:
            # The duplicate stays what it is, whoever closes the descriptor meanwhile and gets its number for a file.
            duplicate = os.dup(int(name))
        except OSError:
            continue
        try:
            connection = socket.socket(fileno=duplicate)
        except OSError:  # no socket
            os.close(duplicate)
            continue
        try:
            ours = connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getsockname()[1] == port
            if ours:
                address, their_port = connection.getpeername()[:2]
                found[address.removeprefix("::ffff:"), their_port] = connection
                continue
        except OSError:  # it listens, or has just been closed
            pass
        connection.close()
    return found


@functools.lru_cache(maxsize=2**14)
def _parsed(peer: str) -> Peer:
    """A connection's other end as sockets know it, from what gRPC writes: ipv4:1.2.3.4:5, or ipv6:%5B::1%5D:5."""
    address, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return address.strip("[]").removeprefix("::ffff:"), int(port) if port.isdecimal() else 0
