"""Which addresses belong to this machine alone.

A client shows its token unencrypted there and nowhere else, a server may serve there without TLS and tokens, and an
open dashboard answers to such names only. Wherever an address can be read in two ways, it counts as another machine's.
"""

from __future__ import annotations

import ipaddress
import re

_UNIX_SOCKET = "unix:/"
"""No host's name has a slash. What lacks one, as in `unix:50051`, may be a host named `unix`."""
_NAMES = {"localhost", "localhost."}
"""Any other name is looked up, and may mean anything."""
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:\[\]]+)(?::[^:]*)?")
"""An IPv6 address needs its brackets: `::1:5005` may be one as a whole, and is no loopback then."""


def is_loopback(address: str) -> bool:
    """Whether an address, HOST:PORT or unix:/PATH, is certainly on this machine and nowhere else."""
    return address.startswith(_UNIX_SOCKET) or (":" in address and is_loopback_authority(address))


def is_loopback_authority(authority: str) -> bool:
    """Whether HOST or HOST:PORT, as browsers write it in a request's `Host`, is certainly this machine."""
    found = _HOST_AND_PORT.fullmatch(authority)
    if found is None:
        return False
    host = found["host"]
    if host.lower() in _NAMES:
        return True
    try:
        if not host.startswith("["):
            return ipaddress.IPv4Address(host).is_loopback
        address = ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    # An IPv4 address that is written as an IPv6 one is reached over IPv4.
    return (address.ipv4_mapped or address).is_loopback
