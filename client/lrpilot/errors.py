"""Everything that the client raises on purpose.

```text
LRPilotError
├── ConfigError            an argument can't be accepted
├── ServerError            the server refused or failed
│   ├── UnavailableError   nothing answers, or not in time
│   ├── RefusedError       the server found the request wrong
│   └── ProtocolError      the server's answer can't be carried out
└── ScheduleError          a schedule can't be read or used
```
"""

from __future__ import annotations


class LRPilotError(Exception):
    """The root of the tree."""


class ConfigError(LRPilotError, ValueError):
    """An argument can't be accepted; the message names it and says what would be right."""


class ScheduleError(LRPilotError, ValueError):
    """A schedule can't be read or used: it has a gap or no steps, or is of a newer format."""


class ServerError(LRPilotError):
    """The server refused or failed.

    Attributes:
        code: the name of the gRPC status, such as "UNAVAILABLE".
    """

    def __init__(self, message: str, code: str) -> None:
        self.code = code
        super().__init__(message)


class UnavailableError(ServerError):
    """Nothing answers, or not in time.

    Attributes:
        again_s: how long the server wants to be left alone, in seconds; 0: it did not say.
    """

    def __init__(self, message: str, code: str, again_s: float = 0.0) -> None:
        self.again_s = again_s
        super().__init__(message, code)


class RefusedError(ServerError):
    """The server found the request wrong: INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION and the like."""


class ProtocolError(ServerError):
    """The server's answer can't be carried out."""
