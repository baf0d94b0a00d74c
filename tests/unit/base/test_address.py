from __future__ import annotations

import socket

import pytest

from tuner_server.base.address import Address, bound, reserved
from tuner_server.core.errors import InvalidInputError

HERE = Address("127.0.0.1", 0)


@pytest.mark.parametrize("text", ["127.0.0.1:50051", "localhost:0", "[::1]:65535"])
def test_an_address_reads_back(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "50051", ":50051", "host", "host:", "host:x", "host:65536", "host:-1", "::1:50051"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("port", ["65536", "99999999", "9" * 5000])
def test_a_port_that_is_too_high_is_told_how_high_they_go(port: str) -> None:
    with pytest.raises(ValueError, match="with a port up to 65535"):
        Address.parse(f"host:{port}")


@pytest.mark.parametrize("host", ["a..b", pytest.param("a" * 300, id="long")])
def test_a_name_that_no_host_can_have_can_not_be_bound(host: str) -> None:
    with pytest.raises(InvalidInputError, match=r"listen: a.*:0 can't be bound: no host can have that name"):
        bound("listen", Address(host, 0))


def test_a_reserved_address_is_for_those_who_share_it() -> None:
    with reserved("listen", HERE) as holder:
        address = HERE._replace(port=holder.getsockname()[1])
        for take in (bound, reserved):
            with pytest.raises(InvalidInputError, match=f"listen: {address} can't be bound: Address already in use"):
                take("listen", address)
        workers = [socket.socket(), socket.socket()]
        for worker in workers:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(address)
            worker.listen()
        for worker in workers:
            worker.close()
    bound("listen", address).close()


def test_an_address_whose_connections_are_still_closing_can_be_had_again() -> None:
    with socket.create_server(HERE) as server:
        address = HERE._replace(port=server.getsockname()[1])
        with socket.create_connection(address):
            accepted, _ = server.accept()
            accepted.close()  # first: it is this side that waits then
    bound("listen", address).close()
    reserved("listen", address).close()


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"listen: no\.such\.host\.invalid:1 can't be bound"):
        bound("listen", Address("no.such.host.invalid", 1))
