"""Where a server is, as people write it. Pure."""

from __future__ import annotations

import re

from lrpilot.errors import ConfigError

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):/")
GRPC_SCHEMES = {"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds", "passthrough"}
"""What gRPC itself reads in front of a name."""
LAST_PORT = 65535
_PORT = re.compile(r":\d+\Z", re.ASCII)


def checked_target(target: object) -> str:
    """The address of a server, as gRPC takes it. Raises: ConfigError: it is none."""
    if not isinstance(target, str):
        raise ConfigError(f"server: {target!r} is a {type(target).__name__}; give HOST:PORT, as 'localhost:50051'")
    scheme = _SCHEME.match(target)
    if scheme is not None and scheme["scheme"].lower() not in GRPC_SCHEMES:
        bare = target.partition("://")[2].rstrip("/") or "localhost:50051"
        raise ConfigError(f"server: {target!r} has a scheme, and takes none; give HOST:PORT, as {bare!r}")
    if scheme is None and not target.startswith(("unix:", "vsock:")) and not _PORT.search(target):
        host = target.partition(":")[0] or "localhost"
        raise ConfigError(f"server: {target!r} has no port; give HOST:PORT, as '{host}:50051'")
    if scheme is None and not target.startswith(("unix:", "vsock:")):
        host, _, port = target.rpartition(":")
        if not host or any(map(str.isspace, target)):
            raise ConfigError(f"server: {target!r} has no host; give HOST:PORT, as 'localhost:{port}'")
        if len(port) > len(str(LAST_PORT)) or not 0 < int(port) <= LAST_PORT:
            raise ConfigError(f"server: {target!r}: the port {port} is none; give HOST:PORT with one up to {LAST_PORT}")
    return target
