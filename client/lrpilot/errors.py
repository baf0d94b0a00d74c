"""Everything that the client raises on purpose.

LRPilotError
├── ConfigError          an argument can't be accepted; the message names it and says what would be right
├── ServerError          the server refused or failed; `code` is the gRPC status
│   ├── UnavailableError   nothing answers, or not in time
│   ├── RefusedError       the server found the request wrong (INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, ...)
│   └── ProtocolError      the server's answer can't be carried out
└── ScheduleError        a schedule file can't be read
"""

from __future__ import annotations


class LRPilotError(Exception):
    """The root of the tree."""


class ConfigError(LRPilotError, ValueError):
    """An argument can't be accepted."""


class ScheduleError(LRPilotError, ValueError):
    """A schedule file can't be read."""


class ServerError(LRPilotError):
    """The server refused or failed."""

    def __init__(self, message: str, code: str) -> None:
        self.code = code
        super().__init__(message)


class UnavailableError(ServerError):
    """Nothing answers, or not in time."""


class RefusedError(ServerError):
    """The server found the request wrong."""


class ProtocolError(ServerError):
    """The server's answer can't be carried out."""
