"""LRPilot: the learning rate of a training run, tuned while it runs.

`lrpilot.Tuner` is the hook for a training loop, `lrpilot.Schedule` what it found, and `lrpilot.check_rollback` tells
beforehand whether a loop can be rolled back. PyTorch is imported with the tuner, and not before.
`lrpilot.__version__` is the version that is installed.
"""

from __future__ import annotations

import logging
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
from lrpilot.wire.text.plain_log import PlainArguments

if TYPE_CHECKING:
    from lrpilot.rollback_check import RollbackCheck, check_rollback
    from lrpilot.tuner import Tuner

    __version__: str
    """The version of the distribution `lrpilot` that is installed; `0+unknown` where only the source is on the path."""

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
    "__version__",
    "check_rollback",
]

logging.getLogger("lrpilot").addFilter(PlainArguments())


def __getattr__(name: str) -> Any:
    """Imports what needs PyTorch, and PyTorch with it, when it is first asked for, and so looks up the version."""
    if name in ("Tuner", "RollbackCheck", "check_rollback"):
        return _with_pytorch(name)
    if name == "__version__":
        return _installed_version()
    raise AttributeError(f"module 'lrpilot' has no attribute {name!r}")


def _with_pytorch(name: str) -> Any:
    """What needs PyTorch. Raises: ImportError: there is none."""
    try:
        from lrpilot import rollback_check, tuner
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"lrpilot.{name} is for PyTorch, which is not installed: pip install torch; for JAX and Keras see "
            "lrpilot.integrations.jax and lrpilot.integrations.keras"
        ) from None
    return getattr(tuner if name == "Tuner" else rollback_check, name)


def _installed_version() -> str:
    """The version that pyproject.toml gave to the installed distribution."""
    import importlib.metadata

    try:
        return importlib.metadata.version("lrpilot")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
