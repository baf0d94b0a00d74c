"""Connections of an HTTP port: how many there may be, and how long each may keep us waiting.

uvicorn has a limit on neither. A connection that is accepted waits for its client until a request has arrived whole;
then we are busy with it; then it waits for the next one. Whoever waits too long is closed, and where there is no room
left the one that has waited longest makes some, first among those of the address that has the most. So a newcomer is
let in whatever strangers do, as long as it sends its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import socket
import time
from collections import defaultdict
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from tuner_server.base.turned_away import TurnedAway

BATCH = 16
"""A full port makes room for a sixteenth of its limit at once, so that a flood costs one look for many connections."""
MAX_AHEAD = 2**20
"""Bytes of further requests that a client may send before it has had its answer. They are kept in memory, and whatever
waits for the client to leave has more of them read."""
NO_DESCRIPTOR_S = 0.01
"""Seconds to wait where not even a connection can be turned away."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclasses.dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection may keep us waiting, in seconds."""

    handshake_s: float = 10.0
    """The time for TLS to be agreed on."""
    request_s: float = 10.0
    """The time for a request to arrive whole, headers and body. They are small."""
    response_s: float = 30.0
    """The time in which a client reads nothing at all of its answer."""
    look_s: float = 0.5
    """The time between two looks at all connections."""


class Connection(socket.socket):
    """A client's connection."""

    def __init__(self, connections: Connections, address: str, accepted: socket.socket) -> None:
        """Takes the descriptor of `accepted` over."""
        super().__init__(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self.address = address
        """The IP address of its other end."""
        self.waits_since_s: float | None = time.monotonic()
        """The time since which a request is waited for; None: there is one, and we are busy with it."""
        self.stands_since_s: float | None = None
        """The time since which nothing was read of what we sent; None: nothing is unread."""
        self.transport: asyncio.WriteTransport | None = None
        """The way to its other end; None before TLS is agreed on."""
        self._connections = connections
        self._n_unread = 0
        """Bytes that were unread at the last look."""
        self.ended = False
        """Whether `end` was called."""

    def look(self, now_s: float) -> None:
        """Looks whether the client reads what it is sent."""
        n_unread = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if n_unread == 0:
            self.stands_since_s = None
        elif self.stands_since_s is None or n_unread < self._n_unread:
            self.stands_since_s = now_s
        self._n_unread = n_unread

    def idle_since_s(self) -> float | None:
        """The time since which the client does nothing that we wait for; None: it does what it should, or has ended."""
        if self.ended:
            return None
        return self.waits_since_s if self.stands_since_s is None else self.stands_since_s

    def end(self) -> None:
        """Ends it, whatever it is doing. The loop hears of it as of a client that has left."""
        if not self.ended:
            self.ended = True
            self._connections.n_ending += 1
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        """Closes it."""
        self._connections.left(self)
        super().close()


class Connections:
    """The connections of one port, on one event loop."""

    def __init__(self, port: str, limit: int, patience: Patience) -> None:
        """Holds `limit` connections at most.

        Args:
            port: the setting that the port has, for the log.
            limit: how many there may be.
            patience: how long each may keep us waiting.
        """
        self._limit, self._patience = limit, patience
        self._turned_away = TurnedAway(port, limit)
        self._open: set[Connection] = set()
        self._by_descriptor: dict[int, Connection] = {}
        self.n_ending = 0
        """Connections that were ended, and that the loop has not closed yet."""
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        """A descriptor to give up for a moment when the process has no other."""

    @property
    def crowded(self) -> bool:
        """Whether so many are being ended that the loop has to close them before there are more."""
        return self.n_ending > self._limit // 4

    def admit(self, accepted: socket.socket, address: Any) -> Connection | None:
        """Lets a connection in; None: we are busy with as many as there may be, and it was closed."""
        if len(self._open) - self.n_ending >= self._limit:
            self._make_room()
        if len(self._open) - self.n_ending >= self._limit:
            self._turned_away.refused += 1
            accepted.close()
            return None
        connection = Connection(self, str(address[0]), accepted)
        self._open.add(connection)
        self._by_descriptor[connection.fileno()] = connection
        return connection

    def found(self, descriptor: int) -> Connection:
        """The connection that has a descriptor."""
        return self._by_descriptor[descriptor]

    def left(self, connection: Connection) -> None:
        """A connection is being closed."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        del self._by_descriptor[connection.fileno()]
        self.n_ending -= connection.ended

    def turn_away(self, listener: socket.socket) -> None:
        """Accepts and closes one that waits, where the process has no descriptors left.

        Raises:
            BlockingIOError: none waits.
        """
        if self._spare is None:
            # Somebody else has it. The loop would ask again at once and for ever: others come first.
            time.sleep(NO_DESCRIPTOR_S)
            raise BlockingIOError
        os.close(self._spare)
        self._spare = None
        try:
            # Linux says that there are no descriptors before it looks whether anybody waits.
            socket.socket.accept(listener)[0].close()
            self._turned_away.refused += 1
        finally:
            self._regain_spare()

    def look(self) -> None:
        """Ends those that have kept us waiting for too long, and tells the log what became of others."""
        now_s = time.monotonic()
        self._regain_spare()
        for connection in list(self._open):
            connection.look(now_s)
            since_s, patience_s = connection.idle_since_s(), self._patience.request_s
            if connection.transport is None:
                patience_s = self._patience.handshake_s
            elif connection.stands_since_s is not None:
                patience_s = self._patience.response_s
            if since_s is not None and now_s - since_s > patience_s:
                connection.end()
        self._turned_away.look(now_s)

    async def watch(self) -> None:
        """Looks again and again."""
        while True:
            await asyncio.sleep(self._patience.look_s)
            self.look()

    def close(self) -> None:
        """Gives the spare descriptor back."""
        if self._spare is not None:
            os.close(self._spare)

    def _regain_spare(self) -> None:
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _make_room(self) -> None:
        """Ends those that have been idle longest, of the addresses that have the most."""
        idle: dict[str, list[tuple[float, Connection]]] = defaultdict(list)
        for connection in self._open:
            if (since_s := connection.idle_since_s()) is not None:
                idle[connection.address].append((since_s, connection))
        for found in idle.values():
            found.sort(key=lambda each: -each[0])
        for _ in range(max(1, self._limit // BATCH)):
            most = max(idle.values(), key=len, default=[])
            if not most:
                return
            most.pop()[1].end()
            self._turned_away.ended += 1


class Listener(socket.socket):
    """A listening socket that accepts what its port has room for."""

    def __init__(self, listener: socket.socket, connections: Connections) -> None:
        """Takes the descriptor of `listener` over; connections are those of `connections`."""
        super().__init__(listener.family, listener.type, listener.proto, listener.detach())
        self._connections = connections

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that is let in. Raises: BlockingIOError: there is none now."""
        while not self._connections.crowded:
            try:
                accepted, address = super().accept()
            except OSError as error:
                # asyncio would write thousands of lines about it, and go on trying.
                if error.errno not in _EXHAUSTED:
                    raise
                self._connections.turn_away(self)
                continue
            if (connection := self._connections.admit(accepted, address)) is not None:
                return connection, address
        raise BlockingIOError


class HttpProtocol(H11Protocol):
    """HTTP that says what a connection waits for."""

    port: Connections
    """The connections of the port; set by `protocol`."""
    _connection: Connection
    _fresh = False
    """Whether nothing has come since the last response."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes note of the connection."""
        super().connection_made(transport)
        self._connection = self.port.found(transport.get_extra_info("socket").fileno())
        self._connection.transport = transport
        self._connection.waits_since_s = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Begins the time of a request with its first byte."""
        if self._fresh:
            self._fresh = False
            self._connection.waits_since_s = time.monotonic()
        super().data_received(data)
        if len(self.conn.trailing_data[0]) > MAX_AHEAD:
            self._connection.end()

    def handle_events(self) -> None:
        """Ends the waiting when a request has arrived whole."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete:
            self._connection.waits_since_s = None

    def resume_writing(self) -> None:
        """Takes note that the client has read much of what it was sent."""
        self._connection.stands_since_s = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Waits for the next request, or begins with it if it is there already."""
        self._connection.waits_since_s, self._fresh = time.monotonic(), True
        super().on_response_complete()


def protocol(connections: Connections) -> type[HttpProtocol]:
    """The protocol of a port with these connections."""
    return type("PortProtocol", (HttpProtocol,), {"port": connections})
