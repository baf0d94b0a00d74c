"""The messages between a supervisor and its workers: all that the supervisor imports of a worker."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tuner_server.base.address import Address
from tuner_server.core.errors import FieldViolation, InvalidInputError, TunerError
from tuner_server.process.settings import ServerSettings


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to do."""

    settings: ServerSettings
    listen: Address
    slot: int
    """Which of the workers it is, from 0; whoever takes its place has the same."""
    metrics: Path | None
    """The directory where workers keep what they count; None: nobody wants to know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A worker answers calls."""


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """The health of a process, told every second."""

    problem: str
    """Why the database can't be used; empty: it can."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """A worker can't start."""

    message: str
    violations: tuple[FieldViolation, ...]
    """The settings that were refused, if that is why."""

    @classmethod
    def because(cls, error: TunerError) -> Failed:
        """What an error says."""
        return cls(str(error), error.violations if isinstance(error, InvalidInputError) else ())

    def error(self) -> TunerError:
        """The error, in the supervisor."""
        return InvalidInputError(self.violations) if self.violations else TunerError(self.message)
