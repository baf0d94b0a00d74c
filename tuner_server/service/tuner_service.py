"""The use cases: load a job, advance it, save it, each in one transaction.

Nothing but caches is kept between calls, so any process can serve any job. A report may arrive twice (a retry), late
(the network) or at two processes at once; whatever happens, directive n + 1 is decided once, and a repeated report gets
that answer. What belongs to another project does not exist for the caller.
"""

from __future__ import annotations

import array
import contextlib
import datetime
import hashlib
import json
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from lrpilot.wire.text.plain_text import refusal

from tuner_server.base.clock import utc_now
from tuner_server.base.closing import Closing
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    TunerError,
)
from tuner_server.core.job import machine
from tuner_server.core.job.life import ALL_SHOWN, Life, LifeLimits, Shown, Signs, Vitals
from tuner_server.core.job.machine import JobState
from tuner_server.core.messages import Directive, PlanChange, Report, Value
from tuner_server.core.search.prior import Prior
from tuner_server.service.batch_worker import BatchWorker
from tuner_server.service.family import prior_from
from tuner_server.service.long_reads import LongReads
from tuner_server.service.pipeline import ReportPipeline
from tuner_server.service.pipeline_observer import PipelineObserver
from tuner_server.service.replays import Replay, Replays
from tuner_server.service.revival import revived
from tuner_server.service.sign_writer import SignWriter
from tuner_server.storage import JobFilter, Page, Storage, StoredHistory, StoredJob, StoredVersion

MAX_REQUEST_ID = 200
DIGESTED_AT_ONCE = 10_000
"""Numbers of a report that go into its digest together: a millisecond's work."""
RESUMES_KEPT = 100
"""Names of requests to take a job back that are known again: those of the latest ones."""
FAMILY_JOBS = 20
"""Jobs of a family that a new one learns from, the newest: older ones would weigh next to nothing."""
_LATER_FIELDS = (
    "measures",
    "recorded",
    "change",
    "ending",
    "has_average",
    "first_updates",
    "total_time_s",
    "members",
    "stop_when",
    "maximises",
)
"""Fields of reports and configs that came after the first release."""


class TunerService(Closing):
    """What the RPCs do, without the RPCs. It is thread-safe if its storage is, and closed after use."""

    def __init__(
        self,
        storage: Storage,
        now: Callable[[], datetime.datetime] = utc_now,
        observer: PipelineObserver = PipelineObserver(),  # noqa: B008  # it has no state
        make_worker: Callable[..., BatchWorker[Any]] = BatchWorker,
    ) -> None:
        """Serves the jobs in `storage`.

        Args:
            storage: where the jobs are.
            now: the clock that dates the records.
            observer: hears how reports are worked on.
            make_worker: makes the workers of the pipeline, see there.
        """
        self._storage = storage
        self._now = now
        self._signs = SignWriter(storage, now)
        self.pipeline = ReportPipeline(storage, now, observer, self._signs.add, make_worker)
        """Turns reports into answers."""
        self.long_reads = LongReads()
        """The turns of answers that read long histories, on all ports together."""
        self._replays = Replays()

    @property
    def life_limits(self) -> LifeLimits:
        """How long a sign of a client counts."""
        return self._storage.life_limits

    def vitals(self, stored: StoredJob, signs: Signs | None = None) -> Vitals:
        """The life of a job, now; by other `signs`, if they are given."""
        return self.life_limits.vitals(stored.state.status, signs or stored.signs, self._now())

    def create_job(self, project: str, request_id: str, config: JobConfig) -> StoredJob:
        """Opens a job; the same request again gets the same job, as it then stands.

        Raises:
            InvalidInputError: the config is refused.
            ConflictError: the request id was used with another config.
            QuotaError: the project has as many jobs whose client is there as it may have, and this is none of them.
        """
        if not 0 < len(request_id) <= MAX_REQUEST_ID or refusal(request_id):
            raise InvalidInputError.of("request_id", f"1 to {MAX_REQUEST_ID} visible characters, a UUID is usual")
        transition = machine.create(config, self._prior(project, config))
        job_id = uuid.uuid4().hex
        stored = self._storage.create(project, job_id, request_id, fingerprint(config), transition, self._now())
        if stored.id != job_id:  # it was opened before; somebody asks again
            self._heard_of(stored)
        return stored

    def advance(self, project: str, job_id: str, report: Report, resume_id: str = "") -> Future[Directive]:
        """Takes a report; the future has the next directive, or, for a repeated report, the stored answer.

        Args:
            project: that of the caller.
            job_id: the job.
            report: on its outstanding directive, or a repeated one.
            resume_id: that with which the caller took the job back last; empty: it never did.

        Raises: what `ReportPipeline.submit` says, from the future.
        """
        return self.pipeline.submit(project, job_id, report, fingerprint(report), resume_id)

    def resume_job(
        self,
        project: str,
        job_id: str,
        number: int,
        resume_id: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> StoredJob:
        """Takes a job back to where directive `number` is outstanding; what was reported since is forgotten.

        From then on only reports of this caller are taken: those that tell the same `resume_id`.

        Args:
            project: that of the caller.
            job_id: the job.
            number: of the directive that the caller is at.
            resume_id: the name of this request, by which it is known when it comes again, however late.
            check: raises as soon as the job is not to be replayed to its end; called for every entry of its history.

        Raises:
            NotFoundError: no such job.
            PreconditionError: that directive was never issued, or this version of the code decides otherwise than
                the one that issued it; or the request came before, and the job has gone on since.
            BusyError: another long job is being taken back.
            QuotaError: its client was away, and its project has no place for it now.
        """
        replay = Replay(number)

        def taken_back(stored: StoredJob) -> StoredJob:
            outstanding = stored.state.directive.number
            if not 1 <= number <= outstanding:
                raise PreconditionError(f"directive_number: {number} was never issued; {outstanding} is outstanding")
            if number == outstanding and resume_id == stored.state.resumed_as:
                self._heard_of(stored)
                return stored
            if resume_id and resume_id in stored.state.resume_ids:
                raise PreconditionError(f"resume_id: job {job_id} has gone on since this request came first")
            if number == outstanding:
                earlier = stored.state
            else:
                with self._replays.turn(stored):
                    earlier = replay.back(stored, self.history(stored, check))
            earlier = earlier.model_copy(update={"resume_ids": _names_with(stored.state, resume_id)})
            return self._storage.rewind(stored, earlier, self._now())

        return self._changed(project, job_id, taken_back)

    def cancel_job(self, project: str, job_id: str, reason: str) -> StoredJob:
        """Ends the tuning of a job.

        Raises:
            NotFoundError: no such job.
            PreconditionError: it has ended already.
        """

        def cancelled(stored: StoredJob) -> StoredJob:
            return self._storage.update(stored, machine.cancel(stored.state, reason), self._now())

        return self._changed(project, job_id, cancelled)

    def change_plan(self, project: str, job_id: str, change: PlanChange) -> StoredJob:
        """Asks for a change of a job's plan, which takes effect with its next report on committed steps.

        Raises:
            NotFoundError: no such job.
            PreconditionError: it has ended.
            InvalidInputError: the change can't be made.
        """

        def requested(stored: StoredJob) -> StoredJob:
            return self._storage.update(stored, machine.request(stored.state, change), self._now())

        return self._changed(project, job_id, requested)

    def beat(self, project: str, job_id: str, resume_id: str = "") -> None:
        """Takes a sign of a job's client, which is written a moment later.

        Nobody is told if there is no such job, or if the client is a former life of the run that goes on.

        Args:
            project: that of the caller.
            job_id: the job.
            resume_id: that with which the caller took the job back last; empty: it never did.
        """
        self._signs.add(project, job_id, resume_id)

    def leave_job(
        self, project: str, job_id: str, resume_id: str = "", continued_as: str = "", request_id: str = ""
    ) -> bool:
        """Notes that a job's client has left, unless it is a former life of the run that goes on.

        Args:
            project: that of the caller.
            job_id: the job.
            resume_id: that with which the caller took the job back last; empty: it never did.
            continued_as: the job that the run goes on as; empty, or none of the project's: it goes on nowhere.
            request_id: that with which the caller opened the job; another one, or none: somebody else did.

        Returns:
            Whether the job was deleted: the caller opened it, it never ran, was never taken back, and its run goes on
            as another one. Whoever may only train deletes nothing else.

        Raises: NotFoundError.
        """
        self._signs.drop(project, job_id, resume_id)
        in_vain = self._is_another(project, job_id, continued_as) and self._storage.opened_by(job_id, request_id)
        while (stored := self.get_job(project, job_id)).state.resumed_as == resume_id:
            # A report may come in between, or another client take the job back.
            with contextlib.suppress(ConflictError):
                if in_vain and _never_ran(stored.state):
                    self._storage.delete(stored)
                    return True
                self._storage.leave(stored, self._now())
                break
        return False

    def _is_another(self, project: str, job_id: str, name: str) -> bool:
        """Whether a name is that of another job of the project."""
        if name in ("", job_id):
            return False
        try:
            self.get_job(project, name)
        except NotFoundError:
            return False
        return True

    def describe_job(self, project: str, job_id: str, name: str | None, note: str | None) -> StoredJob:
        """Gives a job another name, or another note; None: it keeps the one it has. Raises: NotFoundError."""

        def described(stored: StoredJob) -> StoredJob:
            words = stored.state.config.name if name is None else name, stored.note if note is None else note
            return self._storage.describe(stored, *words)

        return self._changed(project, job_id, described)

    def delete_job(self, project: str, job_id: str, *, force: bool) -> StoredJob:
        """Deletes a job, with its history; the job as it was.

        Raises:
            NotFoundError: no such job.
            PreconditionError: its client is there, and `force` is not set.
        """

        def deleted(stored: StoredJob) -> StoredJob:
            if self.vitals(stored).life is Life.ALIVE and not force:
                raise PreconditionError(
                    f"job {job_id}: its client is there, and would open it anew; cancel the job first, or force it"
                )
            self._storage.delete(stored)
            return stored

        return self._changed(project, job_id, deleted)

    def get_job(self, project: str, job_id: str) -> StoredJob:
        """The job of that id. Raises: NotFoundError."""
        return self._storage.load(job_id).seen_from(project)

    def list_jobs(
        self,
        project: str,
        page_size: int,
        page_token: str = "",
        *,
        shown: Shown = ALL_SHOWN,
        family: str = "",
        called: str = "",
    ) -> Page:
        """A page of jobs, newest first. Raises: InvalidInputError: the token is none of ours."""
        wanted = JobFilter(shown, self._now(), family or None, called)
        return self._storage.page(project, page_size, page_token, wanted=wanted)

    def job_versions(self, project: str, limit: int, shown: Shown, family: str) -> list[StoredVersion]:
        """Versions of the newest jobs, newest first: far cheaper than the jobs."""
        return self._storage.versions(project, limit, wanted=JobFilter(shown, self._now(), family or None))

    def get_jobs(self, project: str, job_ids: Collection[str]) -> list[StoredJob]:
        """The jobs of these ids, as far as there are any, in no order."""
        return [stored for stored in self._storage.load_all(job_ids) if stored.project == project]

    def history(self, stored: StoredJob, check: Callable[[], None] = lambda: None) -> StoredHistory:
        """The history of a job that `get_job` gave, as it was then, which is read when it is gone through.

        Args:
            stored: the job.
            check: raises as soon as nobody waits for what is read any more.
        """
        return StoredHistory(self._storage, stored.id, stored.state.directive.number, check)

    def close(self) -> None:
        """Answers what is waiting. The storage is its owner's."""
        self.pipeline.close()
        self._signs.close()

    def ping(self) -> None:
        """Checks that the database answers. Raises: StorageError."""
        self._storage.ping()

    def _heard_of(self, stored: StoredJob) -> None:
        """Takes a sign of a job's client, now. Raises: QuotaError: it was away, and its project has no place for it."""
        now = self._now()
        if not revived(self._storage, stored, now):
            self._storage.sign({(stored.project, stored.id): now})

    def _changed(self, project: str, job_id: str, change: Callable[[StoredJob], StoredJob]) -> StoredJob:
        """A job after a change, which is tried again on what is there whenever a report came in between.

        Raises:
            NotFoundError: no such job.
            TunerError: the job does not move, and its rows contradict one another. And what `change` raises.
        """
        version: int | None = None
        while True:
            stored = self.get_job(project, job_id)
            if stored.version == version:
                raise TunerError(f"job {job_id}: its history is not that of its state")
            version = stored.version
            try:
                return change(stored)
            except ConflictError:
                continue  # whoever was faster has moved it to another version

    def _prior(self, project: str, config: JobConfig) -> Prior | None:
        """What the latest jobs of the config's family found; None without a family."""
        if not config.family:
            return None
        page = self._storage.page(project, FAMILY_JOBS, wanted=JobFilter(family=config.family))
        return prior_from(stored.state for stored in page.jobs)


def _never_ran(state: JobState) -> bool:
    """Whether a job lives on which nothing was reported, and which no checkpoint was taken up of."""
    return state.status.live and state.directive.number == 1 and not state.resume_ids


def _names_with(state: JobState, resume_id: str) -> tuple[str, ...]:
    """The names of the latest times that a job was taken back, with one more."""
    if resume_id == state.resumed_as:
        return state.resume_ids
    return (*state.resume_ids, resume_id)[-RESUMES_KEPT:]


def fingerprint(value: Value) -> bytes:
    """A digest that equal values share, and no others."""
    digest = hashlib.sha256()
    if isinstance(value, Report):
        # Thousands of numbers: their bytes are a tenth of the work that their digits are. Of millions some at a
        # time: other threads have their turns in between.
        for numbers in (value.losses, *(value.measures[name] for name in sorted(value.measures))):
            for begin in range(0, len(numbers), DIGESTED_AT_ONCE):
                digest.update(array.array("d", numbers[begin : begin + DIGESTED_AT_ONCE]).tobytes())
        lengths = {name: len(values) for name, values in value.measures.items()}
        fields = value.model_dump(mode="json", exclude={"losses", "measures"}) | {"losses": [], "measures": lengths}
    else:
        fields = value.model_dump(mode="json")
    for name in _LATER_FIELDS:
        # What has none keeps the digest of servers that didn't know the field: it may come again after an upgrade.
        if name in fields and (not fields[name] or fields[name] == type(value).model_fields[name].default):
            del fields[name]
    # Sorted: the order of a map that came over the wire is no part of it, and differs between processes.
    digest.update(json.dumps(fields, sort_keys=True).encode())
    return digest.digest()
