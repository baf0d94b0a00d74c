"""What the system's service manager is told of this process: the protocol of sd_notify(3), a datagram a message."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

SOCKET, WATCHDOG, WATCHDOG_OWNER = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class ServiceManager:
    """A service manager that wants to know how a server is. Where there is none, nothing is told."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """Tells the socket `address`: a path, or a name after `@`.

        Args:
            address: the socket; empty: nobody wants to know.
            watchdog_s: seconds within which it wants a sign of life; None: it wants none.
        """
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The one that started this process. Its variables are taken away, since they are no child's of ours."""
        address = environment.pop(SOCKET, "")
        interval, owner = environment.pop(WATCHDOG, ""), environment.pop(WATCHDOG_OWNER, "")
        ours = interval.isdecimal() and int(interval) > 0 and owner in ("", str(os.getpid()))
        return cls(address if address[:1] in ("/", "@") else "", int(interval) / 1e6 if ours else None)

    def ready(self, status: str) -> None:
        """The server answers, or does so again with what it has read anew."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The server reads its settings anew."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The server drains."""
        self._tell("STOPPING=1", "STATUS=draining")

    def alive(self) -> None:
        """A sign of life."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a service manager that does not read is not waited for
            sender.sendto("\n".join(lines).encode(), self._address)
