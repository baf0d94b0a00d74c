"""Connections that are held open by a process of its own, and opened again whenever the server has closed one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import multiprocessing
import struct
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection

HOST = "127.0.0.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, ACKNOWLEDGED = 4, 6, 1
FRAME_HEAD = struct.Struct(">BHBBL")
"""The head of a frame of HTTP/2: length in 24 bits, type, flags, stream (RFC 9113, 4.1)."""
REOPEN_S = 0.05
"""The pause before a connection that was closed is opened again."""
OPEN_AT_ONCE = 50
"""Connections that are being opened at the same time."""
STOP_TIMEOUT_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What idle connections of one kind say, and where."""

    name: str
    port: int
    says: bytes
    n: int
    """How many there are."""
    speaks_http2: bool = False
    """Whether it answers as HTTP/2 asks, so that it may stay: a channel that nobody calls on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What the holder has."""

    open: Mapping[str, int]
    """Connections that are open now, by kind."""
    reopened: int
    """Connections that were closed by the server and opened again, since the beginning."""


class _Holder:
    """All connections, on one event loop."""

    def __init__(self, kinds: list[Kind]) -> None:
        self._kinds = kinds
        self._open = dict.fromkeys((kind.name for kind in kinds), 0)
        self._reopened = 0
        self._opening = asyncio.Semaphore(OPEN_AT_ONCE)

    async def hold(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in self._kinds:
                for _ in range(kind.n):
                    group.create_task(self._keep(kind))

    def held(self) -> Held:
        return Held(dict(self._open), self._reopened)

    async def _keep(self, kind: Kind) -> None:
        while True:
            try:
                async with self._opening:
                    reader, writer = await asyncio.open_connection(HOST, kind.port)
                self._open[kind.name] += 1
                try:
                    writer.write(kind.says)
                    await (_answer_pings(reader, writer) if kind.speaks_http2 else reader.read())
                finally:
                    self._open[kind.name] -= 1
                    writer.close()
            except (OSError, asyncio.IncompleteReadError):
                pass  # closed by the server
            self._reopened += 1
            await asyncio.sleep(REOPEN_S)


async def _answer_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Does what HTTP/2 asks of a peer that has nothing to say. Raises: IncompleteReadError: the other side closed."""
    writer.write(_frame(SETTINGS, 0, b""))
    while True:
        high, low, kind, flags, _ = FRAME_HEAD.unpack(await reader.readexactly(FRAME_HEAD.size))
        payload = await reader.readexactly((high << 16) + low)
        if kind == SETTINGS and not flags & ACKNOWLEDGED:
            writer.write(_frame(SETTINGS, ACKNOWLEDGED, b""))
        elif kind == PING and not flags & ACKNOWLEDGED:
            writer.write(_frame(PING, ACKNOWLEDGED, payload))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return FRAME_HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, 0) + payload


def _work(pipe: Connection, kinds: list[Kind]) -> None:
    async def run() -> None:
        holder = _Holder(kinds)
        holding = asyncio.create_task(holder.hold())
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(pipe.fileno(), asked.set)
        while True:
            await asked.wait()
            asked.clear()
            if not pipe.poll():
                continue
            if pipe.recv() is None:
                break
            pipe.send(holder.held())
        loop.remove_reader(pipe.fileno())
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)

    asyncio.run(run())


class HolderProcess:
    """The process that holds connections."""

    def __init__(self, kinds: list[Kind]) -> None:
        """Starts it."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, kinds), daemon=True)
        self._process.start()
        theirs.close()

    def held(self) -> Held:
        """What it holds now."""
        self._pipe.send("held")
        found = self._pipe.recv()
        assert isinstance(found, Held)
        return found

    def close(self) -> None:
        """Ends it, and with it all of its connections."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(STOP_TIMEOUT_S)
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextlib.contextmanager
def holding(kinds: list[Kind]) -> Iterator[HolderProcess]:
    """Connections that are held until the block ends."""
    with contextlib.closing(HolderProcess(kinds)) as process:
        yield process
