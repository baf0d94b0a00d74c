"""Every fault does to a socket what it says, and connections that are made afterwards work."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.servers.faulty_proxy import (
    BlackHole,
    Cut,
    Delay,
    Direction,
    Drop,
    Fault,
    Proxy,
    Refuse,
    Reset,
    Stall,
)

TIMEOUT_S = 10.0
SILENCE_S = 0.2
"""How long nothing must come where nothing may come."""


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets, and keeps a copy."""

    def handle(self) -> None:
        received = self.server.received  # type: ignore[attr-defined]  # of EchoServer
        with contextlib.suppress(ConnectionError):
            while chunk := self.request.recv(65536):
                received.append(chunk)
                self.request.sendall(chunk)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.received: list[bytes] = []

    def await_received(self, expected: bytes) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while b"".join(self.received) != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        assert b"".join(self.received) == expected


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[Proxy]:
    with Proxy(f"127.0.0.1:{server.server_address[1]}") as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    host, _, port = proxy.target.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def receive(connection: socket.socket, n_bytes: int) -> bytes:
    """So many bytes, or those that came before the other end closed."""
    received = b""
    while len(received) < n_bytes and (chunk := connection.recv(n_bytes - len(received))):
        received += chunk
    return received


def assert_echoes(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    assert receive(connection, 5) == b"hello"


def assert_silent(connection: socket.socket) -> None:
    connection.settimeout(SILENCE_S)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.settimeout(TIMEOUT_S)


def test_without_a_fault_it_forwards_both_ways(proxy: Proxy) -> None:
    payload = bytes(range(256)) * 4096
    with connect(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(payload,))
        sender.start()
        assert receive(connection, len(payload)) == payload
        sender.join()


def test_it_closes_when_the_server_does(proxy: Proxy, server: EchoServer) -> None:
    server.server_close()
    with connect(proxy) as connection:
        assert connection.recv(1) == b""


def test_refuse_closes_what_is_open_and_listens_no_more(proxy: Proxy) -> None:
    with connect(proxy) as before:
        assert_echoes(before)
        proxy.begin(Refuse())
        assert before.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)


def test_drop_accepts_and_closes_at_once(proxy: Proxy) -> None:
    with connect(proxy) as before:
        assert_echoes(before)
        proxy.begin(Drop())
        assert before.recv(1) == b""
    with connect(proxy) as during:
        assert during.recv(1) == b""


def test_reset_resets(proxy: Proxy) -> None:
    with connect(proxy) as before:
        assert_echoes(before)
        proxy.begin(Reset())
        with pytest.raises(ConnectionResetError):
            before.recv(1)
    with pytest.raises(ConnectionResetError), connect(proxy) as during:  # some already while they connect
        during.recv(1)


def test_delay_holds_every_chunk_back(proxy: Proxy) -> None:
    """A lower bound alone: a slow machine makes it later still."""
    with connect(proxy) as connection:
        assert_echoes(connection)
        proxy.begin(Delay(0.1))
        start = time.monotonic()
        assert_echoes(connection)
        assert time.monotonic() - start >= 0.2  # there and back


@pytest.mark.parametrize("n_bytes", [1, 3])
def test_a_cut_answer_ends_in_the_middle(proxy: Proxy, server: EchoServer, n_bytes: int) -> None:
    with connect(proxy) as before:
        assert_echoes(before)
        proxy.begin(Cut(Direction.ANSWERS, n_bytes))
        before.sendall(b"world")
        assert receive(before, 5) == b"world"[:n_bytes]
        server.await_received(b"helloworld")


def test_a_cut_request_ends_in_the_middle_and_counts_per_connection(proxy: Proxy, server: EchoServer) -> None:
    proxy.begin(Cut(Direction.REQUESTS, 3))
    for _ in range(2):
        with connect(proxy) as connection:
            connection.sendall(b"hello")
            assert receive(connection, 5) in (b"", b"h", b"he", b"hel")
    server.await_received(b"helhel")


def test_what_is_stalled_arrives_afterwards(proxy: Proxy, server: EchoServer) -> None:
    with connect(proxy) as connection:
        assert_echoes(connection)
        proxy.begin(Stall(frozenset({Direction.ANSWERS})))
        connection.sendall(b"world")
        assert_silent(connection)
        server.await_received(b"helloworld")
        proxy.end()
        assert receive(connection, 5) == b"world"


def test_a_fault_after_a_stall_meets_what_waits(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.begin(Stall(frozenset({Direction.ANSWERS})))
        connection.sendall(b"hello")
        assert_silent(connection)
        proxy.begin(Cut(Direction.ANSWERS, 2))
        assert receive(connection, 5) == b"he"


def test_a_black_hole_swallows_and_stays_silent(proxy: Proxy, server: EchoServer) -> None:
    with connect(proxy) as before:
        assert_echoes(before)
        proxy.begin(BlackHole())
        with connect(proxy) as during:
            for connection in (before, during):
                connection.sendall(b"lost")
                assert_silent(connection)
            proxy.end()
            for connection in (before, during):
                connection.sendall(b"lost, too")
                assert_silent(connection)
    assert b"".join(server.received) == b"hello"


@pytest.mark.parametrize(
    "fault", [Refuse(), Drop(), Reset(), Delay(0.01), Cut(Direction.ANSWERS, 1), Stall(), BlackHole()], ids=repr
)
def test_afterwards_new_connections_work(proxy: Proxy, fault: Fault) -> None:
    proxy.begin(fault)
    proxy.end()
    with connect(proxy) as connection:
        assert_echoes(connection)


def test_a_fault_for_some_time_ends_by_itself(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        over = proxy.fail(Stall(), seconds=0.1)
        assert not over.done()
        assert_echoes(connection)
        over.result(TIMEOUT_S)
