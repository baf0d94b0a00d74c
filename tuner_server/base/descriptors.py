"""The file descriptors of a process: how many there may be, and which port may hold how many of them."""

from __future__ import annotations

import dataclasses
import resource

MOST = 65_536
"""The most that the limit is raised to: more connections than one process serves."""
RESERVE = 128
"""Descriptors that no connection takes: those of the database, of files, and of the process itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections each port of a process may hold. Together they leave a reserve of descriptors."""

    rpc: int
    """Connections of training jobs and of the command line, over gRPC."""
    dashboard: int
    """Connections of browsers."""
    operators: int
    """Connections of probes and of Prometheus."""

    @classmethod
    def of(cls, n_descriptors: int) -> ConnectionLimits:
        """The limits where a process may have so many descriptors."""
        free = n_descriptors - min(RESERVE, n_descriptors // 2)
        return cls(rpc=min(free * 5 // 8, 8192), dashboard=min(free // 4, 2048), operators=min(free // 8, 64))


def raised() -> int:
    """Raises the limit of this process as far as it may, up to MOST; the limit from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
