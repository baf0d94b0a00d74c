"""What backends share whose losses arrive as arrays of their framework, or as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lrpilot.backends.base import Backend
from lrpilot.backends.host_losses import HostLosses
from lrpilot.backends.validator import Validator


class HostBackend(Backend):
    """Losses and validation; LRs and state are the framework's."""

    def __init__(self, validator: Validator | None) -> None:
        """`validator` None: the user gave no function."""
        self._losses = HostLosses()
        self._validator = validator

    @property
    def has_validation(self) -> bool:
        """Whether the user gave a function."""
        return self._validator is not None

    def validate(self) -> float | None:
        """The user's function."""
        assert self._validator is not None
        return self._validator.loss()

    def begin(self, n_steps: int, limit: float = math.inf, earlier: Iterable[float] = ()) -> None:
        """See `HostLosses.begin`."""
        self._losses.begin(limit, earlier)

    def append(self, loss: Any) -> bool:
        """Keeps the array."""
        self._losses.append(loss)
        return True

    def diverged(self) -> bool:
        """See `HostLosses.diverged`."""
        return self._losses.diverged()

    def peek(self) -> list[float]:
        """See `HostLosses.peek`."""
        return self._losses.peek()

    def flush(self) -> list[float]:
        """See `HostLosses.flush`."""
        return self._losses.flush()
