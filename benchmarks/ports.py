"""Ports for servers of a benchmark."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])
