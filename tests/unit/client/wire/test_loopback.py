"""One rule, for clients and servers, of which addresses are this machine's alone."""

from __future__ import annotations

import pytest
from lrpilot.wire.loopback import is_loopback, is_loopback_authority


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.8.9.1:1",
        "localhost:50051",
        "LOCALHOST:1",
        "localhost.:1",
        "[::1]:50051",
        "[::ffff:127.0.0.1]:1",
        "unix:/run/lrpilot.sock",
        "unix:///run/lrpilot.sock",
    ],
)
def test_this_machine(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051",
        "[::]:50051",
        "10.0.0.1:50051",
        "[::ffff:10.0.0.1]:1",
        "tuner:50051",
        "localhost.example.com:1",
        "127.0.0.1.example.com:1",
        "127.0.0.1.:1",
        "2130706433:1",
        ":50051",
        "",
    ],
)
def test_another_machine(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "::1:5005",  # an address by itself, whose last part is 5005
        "[::1",
        "[127.0.0.1]:1",
        "unix:50051",  # a socket for gRPC, and a host named unix for a server
        "dns:///127.0.0.1:50051",  # what resolves it may be told otherwise
        "someone@localhost:1",
        "localhost",  # gRPC gives it a port of its own; nobody who means this machine writes it so
    ],
)
def test_what_can_be_read_in_two_ways_is_another_machine(address: str) -> None:
    assert not is_loopback(address)


def test_a_browser_names_the_port_or_not() -> None:
    assert all(map(is_loopback_authority, ("localhost", "localhost:80", "127.0.0.1", "[::1]", "[::1]:80")))
    assert not any(map(is_loopback_authority, ("", "::1", "rebound.example", "localhost.example", "unix:/run/x")))
