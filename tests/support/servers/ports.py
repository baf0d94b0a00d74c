"""Ports that a server can have again after it was killed."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
FIRST, LAST = 20_000, 32_000
"""Below those that the kernel gives to outgoing connections: one of these might take the port while the server is away,
or, connecting to it, even connect to itself."""


def free_port() -> int:
    """A port that nothing listens on."""
    while True:
        port = random.randint(FIRST, LAST)
        try:
            socket.create_server((HOST, port)).close()
        except OSError:
            continue
        return port
