"""The messages between a supervisor and its workers: all that the supervisor imports of a worker."""

from __future__ import annotations

import dataclasses

from tuner_server.base.address import Address
from tuner_server.core.errors import FieldViolation, InvalidInputError, StorageError, TunerError
from tuner_server.process.reloading import SettingsSource
from tuner_server.process.settings import ServerSettings


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to do."""

    settings: ServerSettings
    source: SettingsSource
    """Where the settings are read again."""
    listen: Address
    slot: int
    """Which of the workers it is, from 0; whoever takes its place has the same."""


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A worker answers calls."""


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """The health of a process, told every second."""

    problem: str
    """Why the database can't be used; empty: it can."""
    lasting: bool = False
    """Whether only another start of the process would mend it."""
    why: str = ""
    """What the log is told of it, with addresses and paths; empty: the same as who asks."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """A worker can't start."""

    message: str
    violations: tuple[FieldViolation, ...]
    """The settings that were refused, if that is why."""
    database: bool
    """Whether the database is why: another start of the whole server would not bring that back."""

    @classmethod
    def because(cls, error: TunerError) -> Failed:
        """What an error says."""
        violations = error.violations if isinstance(error, InvalidInputError) else ()
        return cls(str(error), violations, isinstance(error, StorageError))

    def error(self) -> TunerError:
        """The error, in the supervisor."""
        return InvalidInputError(self.violations) if self.violations else TunerError(self.message)
