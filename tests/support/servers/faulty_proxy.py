"""A TCP proxy whose network fails on demand.

A client connects to `Proxy.target`, the proxy to the real server. `begin` makes the network fail, for connections that
are open as well as for new ones, until `end`. All that happens is what TCP allows: the two ends are real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

CHUNK_BYTES = 65536
HOST = "127.0.0.1"
ABORT_WITH_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, on, 0 seconds: closing sends RST instead of FIN."""

Result = TypeVar("Result")


class Direction(enum.Enum):
    """Which way bytes go."""

    REQUESTS = enum.auto()
    ANSWERS = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """A way in which a network fails."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """Nothing listens: open connections are closed, new ones refused."""


@dataclasses.dataclass(frozen=True, slots=True)
class Drop(Fault):
    """Open connections are closed, new ones accepted and closed at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reset(Fault):
    """As `Drop`, but with RST."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delay(Fault):
    """Every chunk arrives late."""

    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Cut(Fault):
    """A connection is closed as soon as so many more bytes have gone through it one way."""

    direction: Direction
    n_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stall(Fault):
    """Bytes wait on their way, and arrive when the fault is over: a partition that heals.

    If another fault comes first, it meets the bytes that wait.
    """

    # A set's text differs from process to process, and tests that run in several have to be called the same in all.
    directions: frozenset[Direction] = dataclasses.field(default=frozenset(Direction), repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class BlackHole(Fault):
    """Connections are accepted and stay open, and their bytes vanish: the peer's machine lost its power.

    A connection with a hole in its stream is silent ever after, also when the fault is over; new ones work.
    """


class Proxy:
    """Forwards connections from `target` to a server. A context manager."""

    def __init__(self, server: str) -> None:
        """Starts to forward to `server` (HOST:PORT)."""
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._fault: Fault | None = None
        self._changed = asyncio.Event()
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._run(self._listen())

    @property
    def target(self) -> str:
        """Where clients connect to (HOST:PORT)."""
        return f"{HOST}:{self._port}"

    def begin(self, fault: Fault) -> None:
        """Makes the network fail until `end`. It fails when this returns."""
        self._run(self._become(fault))

    def end(self) -> None:
        """Makes the network work again. It works when this returns."""
        self._run(self._become(None))

    def fail(self, fault: Fault, seconds: float) -> Future[None]:
        """Makes the network fail for so long. It fails when this returns, and works when the future is done."""
        self.begin(fault)
        return asyncio.run_coroutine_threadsafe(self._end_after(seconds), self._loop)

    def close(self) -> None:
        """Closes all connections, and ends the thread."""
        self._run(self._become(Refuse()))
        self._run(self._finish_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What follows runs on the thread of the loop.

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, HOST, self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _become(self, fault: Fault | None) -> None:
        self._fault = fault
        if isinstance(fault, Refuse):
            if self._listener is not None:
                self._listener.close()
                self._listener = None
        elif self._listener is None:
            await self._listen()
        for link in list(self._links):
            link.passed.clear()
            if isinstance(fault, (Refuse, Drop, Reset)):
                link.abort(reset=isinstance(fault, Reset))
        self._changed.set()
        self._changed = asyncio.Event()

    async def _end_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._become(None)

    async def _finish_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports that were aborted close their sockets in the loop's next round.
        await asyncio.sleep(0)

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        link = _Link([to_client])
        if isinstance(self._fault, (Drop, Reset)):
            link.abort(reset=isinstance(self._fault, Reset))
            return
        self._links.add(link)
        try:
            from_server, to_server = await asyncio.open_connection(*self._server)
            link.writers.append(to_server)
            if link.aborted:  # while it was being opened
                return
            requests = self._pump(link, from_client, to_server, Direction.REQUESTS)
            answers = self._pump(link, from_server, to_client, Direction.ANSWERS)
            pumps = [asyncio.create_task(pump) for pump in (requests, answers)]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        except OSError:
            pass  # the server is away, which its client sees as a connection that closes
        finally:
            for writer in link.writers:
                writer.close()  # after what was written has gone out
            for writer in link.writers:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            self._links.discard(link)

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        """Carries bytes one way until an end closes or the fault closes it."""
        with contextlib.suppress(OSError):  # an end that resets
            while chunk := await source.read(CHUNK_BYTES):
                while isinstance(self._fault, Stall) and direction in self._fault.directions:
                    await self._changed.wait()
                if isinstance(self._fault, Delay):
                    await asyncio.sleep(self._fault.seconds)
                if isinstance(self._fault, BlackHole):
                    link.silent = True
                if link.silent:
                    continue
                cut = self._fault if isinstance(self._fault, Cut) and self._fault.direction is direction else None
                if cut:
                    chunk = chunk[: cut.n_bytes - link.passed[direction]]
                link.passed[direction] += len(chunk)
                sink.write(chunk)
                await sink.drain()
                if cut and link.passed[direction] >= cut.n_bytes:
                    return


class _Link:
    """A client's connection and, once it is open, the one to the server that continues it."""

    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.passed: Counter[Direction] = Counter()
        """Bytes that went through since the present fault began."""
        self.silent = False
        self.aborted = False

    def abort(self, reset: bool) -> None:
        """Closes both connections at once."""
        self.aborted = True
        for writer in self.writers:
            if reset and not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_WITH_RESET)
            writer.transport.abort()
