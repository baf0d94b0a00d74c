"""What a storage is: the jobs, and the log of every directive and report of each.

Guarantees, which every implementation keeps and `tests/contract/test_storage.py` checks:

- A method is one transaction: all of it happened or none of it. When one that writes returns, what it wrote survives
  the process and the machine.
- Jobs are versioned. A write names the version it was made from and raises ConflictError when that is no longer the
  current one, so that of several concurrent writes exactly one takes place.
- Values are copied in and out. What comes back is what was written, floats bit for bit; nothing that a caller does to
  it reaches the storage, or another caller.
- Any thread, and any number of processes, may use the same database. A storage object belongs to the process that
  opened it: open another after a fork.
- Whatever goes wrong underneath comes out as a StorageError.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Self

import numpy as np

from tuner_server.base.closing import Closing
from tuner_server.core.errors import NotFoundError
from tuner_server.core.job.life import Life, LifeLimits, Signs
from tuner_server.core.job.state import JobState, Status, Transition
from tuner_server.core.messages import Decision, Directive, Ending, Outcome, PlanChange, Replacement, Report, Validation
from tuner_server.storage.codec import Series
from tuner_server.storage.job_choice import ALL_JOBS, DeadJobs, JobFilter


@dataclasses.dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it was at `version`. Times are aware, in UTC, to the microsecond."""

    id: str
    project: str
    state: JobState
    version: int
    create_time: datetime
    update_time: datetime
    signs: Signs
    """What its client has let the server know of itself. It may be newer than the version, which it is no part of."""
    note: str = ""
    """What somebody has noted on it."""

    def seen_from(self, project: str) -> Self:
        """This job, for a caller of `project`. Raises: NotFoundError: it is another project's."""
        if self.project != project:
            raise NotFoundError.of_job(self.id)
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A report, and what it led to: to be written if the job is still as it was."""

    job: StoredJob
    """The job as it was when the transition was made."""
    report: Report
    """The report on the directive that was outstanding in `job`."""
    fingerprint: bytes
    """The digest of the report."""
    transition: Transition
    """What `core.job.machine.advance` made of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What a report was answered with."""

    fingerprint: bytes
    """The digest of the report."""
    directive: Directive


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StoredReport:
    """A report in the history. Its series are arrays, which are not written to."""

    outcome: Outcome
    n_steps: int
    validations: tuple[Validation, ...]
    wall_time_s: float
    report_time: datetime
    losses: Series | None
    """The loss of each step; None where the history was asked for without them."""
    replacement: Replacement | None = None
    """What was done instead of the directive."""
    note: str = ""
    """What the client saw, and what it may be."""
    measures: Mapping[str, Series] = dataclasses.field(default_factory=dict)
    """Series by name, one value a step; none where the history was asked for without them."""
    change: PlanChange | None = None
    """The change of the plan that it came with, or that had been asked for until then."""
    ending: Ending | None = None
    """What came of the directive's average of the weights."""

    def __eq__(self, other: object) -> bool:
        """Whether all of it is the same, the values of series bit for bit but for NaN, which equals NaN."""
        if not isinstance(other, StoredReport):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in StoredReport.__slots__)

    __hash__ = None  # type: ignore[assignment]  # as of any value that holds arrays


def _same(mine: object, others: object) -> bool:
    """Whether two fields of reports are the same."""
    if isinstance(mine, Mapping) and isinstance(others, Mapping):
        return mine.keys() == others.keys() and all(_same(mine[name], others[name]) for name in mine)
    if isinstance(mine, np.ndarray) or isinstance(others, np.ndarray):
        if mine is None or others is None:
            return False
        return np.array_equal(np.asarray(mine), np.asarray(others), equal_nan=True)
    return mine == others


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A directive, the decision behind it if there was one, and what came of it (None: still outstanding)."""

    directive: Directive
    decision: Decision | None
    report: StoredReport | None

    def report_as_it_came(self) -> Report:
        """The report, which is there, and was read with its losses and measures."""
        stored = self.report
        assert stored is not None
        assert stored.losses is not None
        return Report(
            directive_number=self.directive.number,
            outcome=stored.outcome,
            losses=tuple(stored.losses.tolist()),
            validations=stored.validations,
            wall_time_s=stored.wall_time_s,
            replacement=stored.replacement,
            note=stored.note,
            measures={name: tuple(values.tolist()) for name, values in stored.measures.items()},
            change=stored.change,
            ending=stored.ending,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class StoredVersion:
    """What of a job tells whether it has changed."""

    id: str
    version: int
    signs: Signs


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Some jobs of a listing."""

    jobs: tuple[StoredJob, ...]
    next_page_token: str
    """Empty on the last page."""


@dataclasses.dataclass(frozen=True, slots=True)
class Backup:
    """A backup of a database."""

    time: datetime
    """When it was complete."""
    size: int
    """Its bytes."""


class Storage(Closing):
    """Keeps jobs. See the module for its guarantees."""

    life_limits: LifeLimits
    """How long a sign of a client counts."""

    @abc.abstractmethod
    def create(
        self,
        project: str,
        job_id: str,
        request_id: str,
        fingerprint: bytes,
        transition: Transition,
        now: datetime,
    ) -> StoredJob:
        """Opens a job with its first directive; idempotent by project and `request_id`. It is a sign of its client.

        Args:
            project: the one that the job belongs to.
            job_id: the id of a new job; not used when the request was answered before.
            request_id: the id of the request, unique to it within its project.
            fingerprint: the digest of the request's content.
            transition: what `core.job.machine.create` gave.
            now: the time, which must be aware.

        Returns:
            The new job; or, when the request was answered before, that job as it is now.

        Raises:
            ConflictError: the request id came with another fingerprint before, or the job id is taken.
            NotFoundError: no such project.
            QuotaError: the project has as many jobs whose client is there as it may have.
        """

    @abc.abstractmethod
    def load(self, job_id: str) -> StoredJob:
        """The job as it is now. Raises: NotFoundError."""

    @abc.abstractmethod
    def opened_by(self, job_id: str, request_id: str) -> bool:
        """Whether there is such a job, and this is the request that opened it."""

    @abc.abstractmethod
    def record(self, changes: Sequence[Change], now: datetime) -> list[StoredJob | None]:
        """Writes reports and what they led to, each the next directive and the new state, in one transaction.

        Many reports share the cost of one commit. They don't share their fate: one whose job has changed meanwhile is
        left out, and the others are written.

        Losses and measures are kept in single precision, as they are on the wire. A report is a sign of its client.

        Args:
            changes: reports on different jobs.
            now: the time, which must be aware.

        Returns:
            For each change the job as it is then; None: it had changed since it was loaded, and nothing was written.
        """

    @abc.abstractmethod
    def update(self, job: StoredJob, state: JobState, now: datetime) -> StoredJob:
        """Replaces the state alone. Raises: ConflictError when the job has changed since `job` was loaded."""

    @abc.abstractmethod
    def describe(self, job: StoredJob, name: str, note: str) -> StoredJob:
        """Gives a job a name and a note. Raises: ConflictError when the job has changed since `job` was loaded."""

    @abc.abstractmethod
    def sign(self, signs: Mapping[tuple[str, str], datetime]) -> None:
        """Notes signs of clients, in one transaction; what has left by then is back.

        A sign from before the moment at which its client left counts for nothing. Jobs that are not there are passed
        over.

        Args:
            signs: the times of the signs, aware, by project and job.
        """

    @abc.abstractmethod
    def has_quota(self, project: str) -> bool:
        """Whether a project may have only so many jobs whose client is there."""

    @abc.abstractmethod
    def revive(self, project: str, job_id: str, at: datetime) -> None:
        """Notes a sign of a client that was away, as `sign` does, if its project has room for one more job.

        Args:
            project: the one that the job belongs to.
            job_id: the job.
            at: the time of the sign, aware.

        Raises:
            NotFoundError: no such project.
            QuotaError: the project has as many jobs whose client is there as it may have, besides this one.
        """

    @abc.abstractmethod
    def leave(self, job: StoredJob, now: datetime) -> None:
        """Notes that a job's client has left, which makes another version of the job: whoever has it is not there.

        Raises: ConflictError when the job has changed since `job` was loaded.
        """

    @abc.abstractmethod
    def rewind(self, job: StoredJob, state: JobState, now: datetime) -> StoredJob:
        """Goes back to an earlier state: what came after its outstanding directive, and the report on it, is forgotten.

        It is a sign of the client.

        Raises:
            ConflictError: the job has changed since `job` was loaded.
            QuotaError: its client was away, or it had ended, and its project has no place for it now.
        """

    @abc.abstractmethod
    def answer(self, job_id: str, number: int) -> StoredAnswer | None:
        """What the report on directive `number` was answered with; None if there was none."""

    @abc.abstractmethod
    def history(
        self, job_id: str, *, losses: bool, measures: bool = True, after: int = 0, until: int | None = None
    ) -> Iterator[Entry]:
        """Reads all directives in the order of their numbers, the outstanding one last, a few megabytes at a time.

        Each part is a transaction of its own, so that a slow reader holds nothing up. Together they are one history
        all the same: what is reported meanwhile is not seen where `until` is given, and a job that goes back to an
        earlier directive meanwhile is noticed.

        Args:
            job_id: the id of the job.
            losses: whether to read the loss of every step too: by far the largest part.
            measures: whether to read the measures of every step with the losses.
            after: the directive after which it begins; 0: with the first one.
            until: the directive that is taken for the outstanding one; None: the one that is.

        Raises (where the iterator is asked for an entry):
            NotFoundError: no such job.
            ConflictError: the job went back, or was deleted, while its history was read.
        """

    @abc.abstractmethod
    def page(self, project: str, page_size: int, page_token: str = "", *, wanted: JobFilter = ALL_JOBS) -> Page:
        """Lists a project's jobs, newest first. Jobs that are created between two pages are not seen by the later one.

        Args:
            project: the project whose jobs are listed.
            page_size: how many jobs at most; at least 1. Of large ones there are fewer, and then a token.
            page_token: the token of the page before; empty for the first.
            wanted: which of its jobs.

        Raises:
            InvalidInputError: a page size or a token that no page could have.
        """

    @abc.abstractmethod
    def versions(self, project: str, limit: int, *, wanted: JobFilter = ALL_JOBS) -> list[StoredVersion]:
        """Versions of a project's newest jobs, newest first: which have changed, for a fraction of a page's cost.

        Args:
            project: the project whose jobs are listed.
            limit: how many at most.
            wanted: which of its jobs.
        """

    @abc.abstractmethod
    def load_all(self, job_ids: Collection[str]) -> list[StoredJob]:
        """The jobs of these ids, as far as there are any, in no order."""

    @abc.abstractmethod
    def delete(self, job: StoredJob) -> None:
        """Deletes a job, with its history. Raises: ConflictError: it has changed since `job` was loaded."""

    @abc.abstractmethod
    def prune(self, dead: DeadJobs, limit: int) -> dict[str, int]:
        """Deletes dead jobs, with their history; of those of one kind the longest unchanged first.

        It takes several transactions, each of them short. A job goes in one of them for everybody, even where the rows
        of its history need more; what an interruption leaves of these goes first the next time.

        Args:
            dead: which.
            limit: how many at most.

        Returns:
            How many were deleted, by what is said of them in a word (`core.job.life.shown_word`, or `HALF_DELETED`).
        """

    @abc.abstractmethod
    def sweep(self, check: Callable[[], None]) -> int:
        """Deletes what interrupted deletions have left of jobs, which nobody sees any more. How many jobs it was.

        Args:
            check: raises as soon as it is to end; called before every transaction.
        """

    @abc.abstractmethod
    def prunable(self, dead: DeadJobs) -> dict[str, int]:
        """How many jobs `prune` would delete with no limit, by what is said of them in a word."""

    @abc.abstractmethod
    def live_jobs(self, now: datetime) -> dict[tuple[Status, Life], int]:
        """How many jobs that have not ended there are in each status and life, over all projects."""

    @abc.abstractmethod
    def ping(self) -> None:
        """Reads something. Raises: StorageError: the database can't be used, or has met pages that can't be right."""

    @abc.abstractmethod
    def touch(self) -> None:
        """Writes something that changes no job. Raises: StorageError when the database takes no writes."""

    @abc.abstractmethod
    def size(self) -> int:
        """The bytes that all of it takes on the disk, its log included. Raises: StorageError."""

    @abc.abstractmethod
    def last_backup(self) -> Backup | None:
        """The last backup of the database; None: there was none. Raises: StorageError."""

    @abc.abstractmethod
    def close(self) -> None:
        """Releases what the storage holds. It is not used afterwards."""
