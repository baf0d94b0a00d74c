"""HOST:PORT, and sockets bound to it."""

from __future__ import annotations

import socket
from typing import NamedTuple, Self

from tuner_server.core.errors import InvalidInputError

LAST_PORT = 2**16 - 1


class Address(NamedTuple):
    """The address at which a server listens."""

    host: str
    """A name or an IP address; an IPv6 address has no brackets here."""
    port: int
    """The number; 0 takes a free one."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads HOST:PORT. Raises: ValueError: it is something else, such as an IPv6 address without its brackets."""
        host, colon, port = text.rpartition(":")
        ambiguous = ":" in host and not (host.startswith("[") and host.endswith("]"))
        if not (colon and host and port.isascii() and port.isdecimal()) or ambiguous:
            raise ValueError("must be HOST:PORT, as 127.0.0.1:50051")
        if len(port) > len(str(LAST_PORT)) or int(port) > LAST_PORT:
            raise ValueError(f"must be HOST:PORT with a port up to {LAST_PORT}, as 127.0.0.1:50051")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bound(setting: str, address: Address) -> socket.socket:
    """A socket that has the address for itself, and doesn't listen yet.

    Raises:
        InvalidInputError: the address can't be bound; the message names `setting`.
    """
    # As gRPC does: a port whose last connections are still closing may be taken again.
    return _bound(setting, address, socket.SO_REUSEADDR)


def reserved(setting: str, address: Address) -> socket.socket:
    """A socket that never listens, and keeps the address for processes that bind it with SO_REUSEPORT, as we do.

    Nobody else gets the address meanwhile: `bound` fails, here and in other servers.

    Raises:
        InvalidInputError: as `bound`.
    """
    with bound(setting, address) as free:
        address = address._replace(port=free.getsockname()[1])
    try:
        # Without SO_REUSEADDR: two sockets that both have it, and don't listen, may share an address.
        return _bound(setting, address, socket.SO_REUSEPORT)
    except InvalidInputError:
        # Connections of a server that didn't share its port are still closing.
        return _bound(setting, address, socket.SO_REUSEPORT, socket.SO_REUSEADDR)


def shared(setting: str, address: Address) -> socket.socket:
    """A socket that shares the address with other processes that bind it so. Raises: InvalidInputError: as `bound`."""
    return _bound(setting, address, socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def _bound(setting: str, address: Address, *options: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        try:
            for option in options:
                opened.setsockopt(socket.SOL_SOCKET, option, 1)
            opened.bind(where)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise InvalidInputError.of(setting, f"{address} can't be bound: {error.strerror or error}") from error
    except UnicodeError:  # what a look-up makes of a part of a name that is empty, or too long
        raise InvalidInputError.of(setting, f"{address} can't be bound: no host can have that name") from None
    return opened
