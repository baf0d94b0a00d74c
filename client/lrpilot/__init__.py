"""LRPilot: the learning rate of a training run, tuned while it runs.

`lrpilot.Tuner` is the hook for a training loop, `lrpilot.Schedule` what it found. PyTorch is imported with the tuner,
and not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrpilot.credentials import Credentials
from lrpilot.errors import (
    ConfigError,
    LRPilotError,
    ProtocolError,
    RefusedError,
    ScheduleError,
    ServerError,
    UnavailableError,
)
from lrpilot.profile import Profile, Shape
from lrpilot.schedule import Schedule

if TYPE_CHECKING:
    from lrpilot.tuner import Tuner

__all__ = [
    "ConfigError",
    "Credentials",
    "LRPilotError",
    "Profile",
    "ProtocolError",
    "RefusedError",
    "Schedule",
    "ScheduleError",
    "ServerError",
    "Shape",
    "Tuner",
    "UnavailableError",
]


def __getattr__(name: str) -> Any:
    """Imports the tuner, and PyTorch with it, when it is first asked for."""
    if name == "Tuner":
        from lrpilot.tuner import Tuner

        return Tuner
    raise AttributeError(f"module 'lrpilot' has no attribute {name!r}")
