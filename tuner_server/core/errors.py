"""Everything that the server raises on purpose.

TunerError
├── InvalidInputError     the caller's fault: fields with what would be right
├── NotFoundError         no such job
├── PreconditionError     the job is not where the caller thinks it is
├── UnauthenticatedError  nobody knows who calls
├── AccessDeniedError     the caller may not do this
├── QuotaError            a limit of the caller's project is reached
├── RateError             too much at a time; the same call is right a moment later
│   └── BusyError           of all callers together
├── AbandonedError        whoever asked has left, so the work is not done to its end
├── ConflictError         the same request id, another content; or a lost race that is worth a retry
├── PolicyError           our fault: a policy broke the contract that `core.job.machine` checks
├── DivergenceError       nobody's fault but the training's: it diverges at any LR; it only ends a job
└── StorageError          the database can't be used
    ├── OverloadError       it is not the database's fault: too much waits for it, or the server is stopping
    ├── CorruptionError     its pages can't be read
    └── SchemaVersionError  it was written by a newer version
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Iterable, Sequence
from typing import Self

import pydantic

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
"""What was wrong is repeated to whoever sent it, but not at any length."""


class TunerError(Exception):
    """The root of the tree."""

    @property
    def told(self) -> str:
        """What a caller is told: the message itself, unless that is for operators alone."""
        return str(self)

    def bare(self) -> Self:
        """This error, without its traceback and what it came from.

        Those keep the variables of all functions that it passed through, a large request among them, for as long as
        somebody keeps the error; where that is a cycle, until the collector comes, which large objects don't hasten.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


@dataclasses.dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field that can't be accepted, and what would be right."""

    field: str
    description: str


class InvalidInputError(TunerError):
    """Bad input; nothing was changed."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidInputError:
        """An error about one field."""
        return cls([FieldViolation(field, description)])

    @classmethod
    def from_pydantic(
        cls, error: pydantic.ValidationError, prefix: str = "", known: Iterable[str] = ()
    ) -> InvalidInputError:
        """Pydantic's findings as violations.

        Args:
            error: the findings.
            prefix: what the paths of fields begin with, as `prefix.names[0].first`.
            known: the fields that there are, which the answer to an unknown one tells.
        """
        known = tuple(known)
        violations = []
        for item in error.errors():
            parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]]
            path = "".join([prefix, *parts]).removeprefix(".")
            unknown = item["type"] == "extra_forbidden"
            message = _unknown(item["loc"], known) if unknown else item["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(item["input"], dict) else f" (got {_short.repr(item['input'])})"
            violations.append(FieldViolation(path or "config", f"{message}{shown}"))
        return cls(violations)


def _unknown(place: Sequence[int | str], known: Sequence[str]) -> str:
    """What is said of an option that there is not."""
    return f"no such option{meant(str(place[-1]) if place else '', known)}"


def meant(given: str, known: Sequence[str]) -> str:
    """The end of a sentence on a name that is unknown: what may have been meant, and what there is."""
    if not known:
        return ""
    near = difflib.get_close_matches(given, known, n=1)
    question = f" did you mean {near[0]!r}?" if near else ""
    return f";{question} there are {', '.join(known)}"


class NotFoundError(TunerError):
    """No such job."""

    @classmethod
    def of_job(cls, job_id: str) -> NotFoundError:
        """The error for a caller to whom there is no such job, be it another project's or none at all."""
        return cls(f"no job has the id {job_id!r}")


class PreconditionError(TunerError):
    """The job is in a state in which this can't be done."""


class ConflictError(TunerError):
    """A request id that was used for something else, or a job that another request changed meanwhile."""


class QuotaError(TunerError):
    """A limit of the caller's project is reached; nothing was changed."""


class UnauthenticatedError(TunerError):
    """No token, or none that counts; nothing was changed."""


class AccessDeniedError(TunerError):
    """The caller's token does not allow this; nothing was changed."""


class RateError(TunerError):
    """Too much at a time; nothing was changed."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        """Refuses until `retry_after_s` from now."""
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BusyError(RateError):
    """Too much at a time of all callers together; nothing was changed."""


class AbandonedError(TunerError):
    """Whoever asked has left, so the answer is not worked on any more. Nobody hears of it."""


class PolicyError(TunerError):
    """A policy asked for something that the contract forbids. A bug of ours: the job fails, training goes on."""


class DivergenceError(TunerError):
    """A training diverges whatever its LR. The job fails, training goes on without it."""


class StorageError(TunerError):
    """The database can't be used.

    The message is for the log and for operators: it names the database, and repeats what its driver said. `what` is a
    word or two on the kind of trouble, which anybody may know.
    """

    def __init__(self, message: str, what: str = "") -> None:
        self.what = what
        super().__init__(message)

    @property
    def told(self) -> str:
        """What a caller is told: no address, no user, no path."""
        return f"the database can't be used{': ' if self.what else ''}{self.what}; the server's log has the reason"


class OverloadError(StorageError):
    """Too much waits for the database, or the server is stopping; the same call is right a moment later."""

    @property
    def told(self) -> str:
        """The message, which is the server's own."""
        return str(self)


class CorruptionError(StorageError):
    """The database has pages that can't be read, or that contradict one another."""


class SchemaVersionError(StorageError):
    """The database has the schema of a newer version of LRPilot, from the start or by now."""
