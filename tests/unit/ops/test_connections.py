"""Connections of an HTTP port that keep it waiting are ended, and those that don't are not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from tests.support.servers.event_loop import run
from tuner_server.access.tls import TlsFiles
from tuner_server.base.address import Address, bound
from tuner_server.ops.connections import Patience
from tuner_server.ops.http import PortLimits, serving

HOST = "127.0.0.1"
LIMIT = 8
HASTY = Patience(handshake_s=0.2, request_s=0.2, look_s=0.05)
GET = b"GET /%s HTTP/1.1\r\nHost: tuner\r\n\r\n"
SLOW_S = 0.5
LARGE = 16 * 2**20
"""More than the buffers of two sockets hold."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def slow(_request: Request) -> Response:
    await asyncio.sleep(SLOW_S)
    return PlainTextResponse("ok")


async def large(_request: Request) -> Response:
    return PlainTextResponse("x" * LARGE)


async def streamed(_request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(LARGE // 2**16):
            yield bytes(2**16)

    return StreamingResponse(chunks())


async def watched(request: Request) -> Response:
    """Listens for the client to leave while it works, as what makes pages of long jobs does."""

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.01)
    listening.cancel()
    return PlainTextResponse("ok")


async def quick(request: Request) -> Response:
    await request.body()
    return PlainTextResponse("ok")


APP = Starlette(
    routes=[
        Route("/slow", slow),
        Route("/watched", watched),
        Route("/large", large),
        Route("/streamed", streamed),
        Route("/quick", quick, methods=["GET", "POST"]),
    ]
)


class Port:
    """A port that is served, and connections to it."""

    def __init__(self, number: int, tls: ssl.SSLContext | None) -> None:
        self.number, self._tls = number, tls
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, says: bytes = b"") -> Streams:
        reader, writer = await asyncio.open_connection(HOST, self.number)
        self._writers.append(writer)
        writer.write(says)
        return reader, writer

    async def get(self, path: bytes) -> bytes:
        """The head of an answer."""
        reader, writer = await asyncio.open_connection(HOST, self.number, ssl=self._tls)
        self._writers.append(writer)
        writer.write(GET % path)
        return await reader.readuntil(b"\r\n\r\n")

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came before the other side closed."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


def served(
    story: Callable[[Port], Coroutine[Any, Any, None]],
    patience: Patience = HASTY,
    tls: TlsFiles | None = None,
    trusts: ssl.SSLContext | None = None,
) -> None:
    """Runs a story at a port."""

    async def tell() -> None:
        listener = bound("http", Address(HOST, 0))
        port = Port(listener.getsockname()[1], trusts)
        async with asyncio.timeout(20.0), serving(APP, listener, PortLimits("http", LIMIT, patience), tls):
            for _ in range(100):  # until it listens
                with contextlib.suppress(ConnectionError):
                    await port.get(b"quick")
                    break
                await asyncio.sleep(0.01)
            try:
                await story(port)
            finally:
                await port.close()

    run(tell())


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"GET /quick HT",
        b"GET /quick HTTP/1.1\r\nHost: tuner\r\n",
        b"POST /quick HTTP/1.1\r\nHost: tuner\r\nContent-Length: 100\r\n\r\nabc",
        GET % b"quick" + b"GET /qui",
    ],
)
def test_a_request_that_does_not_come_is_not_waited_for(says: bytes) -> None:
    async def story(port: Port) -> None:
        reader, _ = await port.connect(says)
        await ended(reader)

    served(story)


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01\x02", GET % b"quick"])
def test_a_handshake_that_does_not_come_is_not_waited_for_and_makes_room(says: bytes, tmp_path: Path) -> None:
    authority, trusts = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusts)
    issued = authority.issue_cert(HOST)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    key.touch(mode=0o600)
    issued.private_key_pem.write_to_path(key)

    async def story(port: Port) -> None:
        silent = [await port.connect(says) for _ in range(3 * LIMIT)]
        assert b"200 OK" in await port.get(b"quick")
        for reader, _ in silent:
            await ended(reader)

    served(story, HASTY, TlsFiles(cert, key), trusts)


def test_a_request_that_trickles_in_for_ever_is_not_waited_for() -> None:
    async def story(port: Port) -> None:
        reader, writer = await port.connect(b"GET /quick HTTP/1.1\r\n")

        async def trickle() -> None:
            while True:
                writer.write(b"x-a: b\r\n")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        await ended(reader)
        trickling.cancel()

    served(story)


def test_a_request_that_we_are_busy_with_has_the_time_that_it_takes() -> None:
    async def story(port: Port) -> None:
        reader, _ = await port.connect(GET % b"slow")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")

    served(story)


@pytest.mark.parametrize("path", [b"large", b"streamed"])
def test_an_answer_that_nobody_reads_is_given_up_and_one_that_is_read_slowly_is_not(path: bytes) -> None:
    async def story(port: Port) -> None:
        unread, slowly = await port.connect(GET % path), await port.connect(GET % path)
        n_read = 0
        while n_read < LARGE:
            chunk = await slowly[0].read(LARGE // 32)
            assert chunk, "it was read all the time"
            n_read += len(chunk)
            await asyncio.sleep(0.02)
        assert len(await ended(unread[0])) < LARGE

    served(story, Patience(response_s=0.5, look_s=0.05))


def test_a_full_port_lets_a_newcomer_in_for_one_that_waits_longest() -> None:
    async def story(port: Port) -> None:
        first, *_ = [await port.connect() for _ in range(3 * LIMIT)]
        assert b"200 OK" in await port.get(b"quick")
        await ended(first[0])

    served(story, Patience())


def test_a_port_that_is_busy_with_all_refuses_one_more_and_says_so() -> None:
    async def story(port: Port) -> None:
        busy = [await port.connect(GET % b"slow") for _ in range(LIMIT)]
        await asyncio.sleep(0.2)
        reader, _ = await port.connect(GET % b"quick")
        assert await ended(reader) == b""
        for answered, _ in busy:
            assert b"200 OK" in await answered.readuntil(b"\r\n\r\n")

    with capture_logs() as lines:
        served(story, Patience())
    assert [line["refused"] for line in lines if line["event"] == "connections turned away"] == [1]


def test_a_process_without_descriptors_turns_away_and_goes_on() -> None:
    async def story(port: Port) -> None:
        reader, writer = await port.connect(GET % b"quick")
        await reader.readuntil(b"ok")
        waiting = socket.socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
        try:
            fillers = []
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.open(os.devnull, os.O_RDONLY))
            waiting.setblocking(False)
            await asyncio.get_running_loop().sock_connect(waiting, (HOST, port.number))
            assert await asyncio.get_running_loop().sock_recv(waiting, 1) == b"", "it was closed at once"
            writer.write(GET % b"quick")
            await reader.readuntil(b"ok")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in fillers:
                os.close(descriptor)
            waiting.close()

    served(story, Patience())


def test_requests_that_wait_behind_one_another_have_the_time_that_they_take() -> None:
    async def story(port: Port) -> None:
        reader, _ = await port.connect(2 * (GET % b"slow"))
        for _ in range(2):
            await reader.readuntil(b"200 OK")

    served(story)


def test_a_client_that_sends_requests_without_end_is_ended() -> None:
    async def story(port: Port) -> None:
        reader, writer = await port.connect()
        flood = (GET % b"watched") * 4096

        async def read() -> None:
            await ended(reader)

        reading = asyncio.create_task(read())
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(flood)
                await writer.drain()
        assert writer.transport.is_closing()
        await reading
        assert b"200 OK" in await port.get(b"quick")

    served(story, Patience())
