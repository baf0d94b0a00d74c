"""What every framework's tuner takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from lrpilot.credentials import Credentials
from lrpilot.observer import Observer
from lrpilot.transport.base import Transport

TIMEOUT_S = 30.0
"""For one decision, retries included."""


class JobOptions(TypedDict, total=False):
    """What every framework's tuner takes, as keyword arguments; `Driver.__init__` says what they mean."""

    server: str | None
    credentials: Credentials | None
    total_steps: int | None
    lr_bounds: tuple[float, float] | None
    policy: str | None
    policy_options: Mapping[str, Any] | None
    name: str
    family: str
    seed: int
    timeout_s: float
    strict: bool
    observers: Sequence[Observer]
    transport: Transport | None
