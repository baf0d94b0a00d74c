"""LRPilot: the learning rate of a training run, tuned while it runs.

`lrpilot.Tuner` is the hook for a training loop, `lrpilot.Schedule` what it found, and `lrpilot.check_rollback` tells
beforehand whether a loop can be rolled back. PyTorch is imported with the tuner, and not before.
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
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire.profile import Profile, Shape

if TYPE_CHECKING:
    from lrpilot.rollback_check import RollbackCheck, check_rollback
    from lrpilot.tuner import Tuner

__all__ = [
    "ConfigError",
    "Credentials",
    "LRPilotError",
    "Profile",
    "ProtocolError",
    "RefusedError",
    "RollbackCheck",
    "Schedule",
    "ScheduleError",
    "ServerError",
    "Shape",
    "Tuner",
    "UnavailableError",
    "check_rollback",
]


def __getattr__(name: str) -> Any:
    """Imports what needs PyTorch, and PyTorch with it, when it is first asked for."""
    if name == "Tuner":
        from lrpilot.tuner import Tuner

        return Tuner
    if name in ("RollbackCheck", "check_rollback"):
        from lrpilot import rollback_check

        return getattr(rollback_check, name)
    raise AttributeError(f"module 'lrpilot' has no attribute {name!r}")
