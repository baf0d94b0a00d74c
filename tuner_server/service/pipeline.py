"""The way from reports to answers, for all jobs of a process, through two workers.

    submit ─▶ reports ─▶ decide ──────────────────▶ write ─▶ answer
                            └─▶ searches ─▶ search ─▶ write ─▶ answer

Whatever has arrived while a worker was busy goes through it together, so that under load many reports share one commit,
and the searches of many jobs one batched evaluation. A report that comes alone waits for nobody. Reports that need no
search don't wait for those that do. An answer goes out after the commit that holds its report.

A group changes nothing about its members: each is decided as if it were alone, bit for bit, and each is written or left
out by itself.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from tuner_server.core.errors import OverloadError, PreconditionError, StorageError, TunerError
from tuner_server.core.faults import described
from tuner_server.core.job import lockstep
from tuner_server.core.job.life import Life
from tuner_server.core.job.lockstep import PendingSearch
from tuner_server.core.job.machine import JobState, Transition
from tuner_server.core.messages import Directive, Report
from tuner_server.service.batch_worker import BatchWorker
from tuner_server.service.job_cache import JobCache
from tuner_server.service.pipeline_observer import PipelineObserver, PipelineTask
from tuner_server.service.revival import revived
from tuner_server.storage import Change, Storage, StoredJob

MAX_GROUP = 128
"""Reports that a worker takes together: more would save little, and make the first ones wait."""
MAX_WAITING = 4096
"""Reports that may wait; a server that is so far behind refuses further ones, whose clients come again."""
CACHED_JOBS = 4096
"""Live jobs whose state is kept: some tens of megabytes at most."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A report that waits for its answer."""

    project: str
    job_id: str
    report: Report
    fingerprint: bytes
    resume_id: str
    """When its client took the job back last."""
    answer: Future[Directive]
    origin: object
    """What the observer gave for it."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Searching:
    """A report whose answer needs a search."""

    pending: _Pending
    stored: StoredJob
    search: PendingSearch

    @property
    def job_id(self) -> str:
        return self.pending.job_id

    @property
    def answer(self) -> Future[Directive]:
        return self.pending.answer


def _job_of(item: _Pending | _Searching) -> str:
    return item.job_id


def _ends(decided: Transition | PendingSearch) -> bool:
    """Whether a job takes no place any more, after what a report led to."""
    return isinstance(decided, Transition) and not decided.state.status.live


def _overtaken(pending: _Pending) -> PreconditionError:
    """The refusal of a report whose client is a former life of the run that goes on."""
    return PreconditionError(
        f"resume_id: another process has gone on with job {pending.job_id}, from a checkpoint; end this one"
    )


def _refuse(item: _Pending | _Searching, error: BaseException) -> None:
    """Answers a report with what was raised, unless it has an answer. No event loop survives what is no `Exception`."""
    answer = item.answer
    if not answer.done():
        answer.set_exception(error if isinstance(error, Exception) else TunerError(described(error)))


class ReportPipeline:
    """Takes reports from any thread. It owns two workers, each a thread, from its making until `close`."""

    def __init__(
        self,
        storage: Storage,
        now: Callable[[], datetime.datetime],
        observer: PipelineObserver,
        heard_of: Callable[[str, str, str], None],
        make_worker: Callable[..., BatchWorker[Any]] = BatchWorker,
    ) -> None:
        """Serves the jobs in `storage`.

        Args:
            storage: where reports are written.
            now: dates the records.
            observer: hears how it goes.
            heard_of: is told of projects and jobs whose client has given a sign that no record has, and of the name
                with which the client took the job back.
            make_worker: makes a worker from the arguments of `BatchWorker`; a simulation steps workers by itself.
        """
        self._storage = storage
        self._now = now
        self._observer = observer
        self._heard_of = heard_of
        self._cache = JobCache(CACHED_JOBS)
        self._reports: BatchWorker[_Pending] = make_worker(
            "reports", self._decide, _job_of, _refuse, max_group=MAX_GROUP, max_waiting=MAX_WAITING
        )
        self._searches: BatchWorker[_Searching] = make_worker(
            "searches", self._search, _job_of, _refuse, max_group=MAX_GROUP, max_waiting=MAX_WAITING
        )

    def submit(
        self, project: str, job_id: str, report: Report, fingerprint: bytes, resume_id: str
    ) -> Future[Directive]:
        """Queues a report; the future has the next directive, or, for a repeated report, the stored answer.

        Raises (from the future):
            NotFoundError: no such job in this project.
            PreconditionError: the report has a wrong number, or differs from the one that was taken under it; or
                another client has taken the job back since its own did.
            InvalidInputError: the report contradicts its directive.
            QuotaError: its client was away, and its project has no place for it now.
            StorageError: the database can't be used, or too much is waiting for it.
        """
        pending = _Pending(project, job_id, report, fingerprint, resume_id, Future(), self._observer.origin())
        self._queue(self._reports, pending, pending)
        return pending.answer

    @property
    def alive(self) -> bool:
        """Whether both threads run."""
        return self._reports.alive and self._searches.alive

    @property
    def waiting(self) -> tuple[int, int]:
        """Reports that wait to be looked at, and searches that wait to be made."""
        return len(self._reports), len(self._searches)

    @property
    def cached_jobs(self) -> int:
        """Jobs whose state is kept."""
        return len(self._cache)

    def close(self) -> None:
        """Answers what is waiting, and ends the threads."""
        self._reports.close()
        self._searches.close()

    def _decide(self, group: Sequence[_Pending]) -> None:
        with self._observer.working(PipelineTask.DECIDE, [pending.origin for pending in group]):
            ready = self._decide_all(group)
        self._write(ready, searched=False)

    def _decide_all(self, group: Sequence[_Pending]) -> list[tuple[_Pending, StoredJob, Transition]]:
        """What can be written now. Repeated reports are answered, and searches handed on."""
        ready: list[tuple[_Pending, StoredJob, Transition]] = []
        for pending in group:
            if not (pending.answer.running() or pending.answer.set_running_or_notify_cancel()):
                continue  # the caller has gone, and will come again
            try:
                stored, decided = self._decide_one(pending)
            except TunerError as error:
                pending.answer.set_exception(error.bare())  # its traceback would keep the report
                continue
            except BaseException as error:
                _refuse(pending, error)
                continue
            match decided:
                case Directive():
                    pending.answer.set_result(decided)
                    self._heard_of(pending.project, pending.job_id, pending.resume_id)
                    self._observer.repeated()
                case PendingSearch():
                    self._queue(self._searches, _Searching(pending, stored, decided), pending)
                case Transition():
                    ready.append((pending, stored, decided))
        return ready

    def _decide_one(self, pending: _Pending) -> tuple[StoredJob, Transition | PendingSearch | Directive]:
        """What a report leads to. No refusal is founded on a cached state that may be old."""
        cached = self._cache.get(pending.job_id)
        if cached is not None and self._is_alive(cached):
            try:
                return cached, self._decide_from(cached, pending)
            except TunerError:
                self._cache.forget(pending.job_id)
        stored = self._storage.load(pending.job_id)
        decided = self._decide_from(stored, pending)
        if not (isinstance(decided, Directive) or _ends(decided)):
            revived(self._storage, stored, self._now())
        return stored, decided

    def _is_alive(self, stored: StoredJob) -> bool:
        """Whether a job's client was there until now, so that the job has its place already."""
        return self._storage.life_limits.vitals(stored.state.status, stored.signs, self._now()).life is Life.ALIVE

    def _decide_from(self, stored: StoredJob, pending: _Pending) -> Transition | PendingSearch | Directive:
        state = stored.seen_from(pending.project).state
        if pending.report.directive_number < state.directive.number:
            return self._stored_answer(pending, state)
        if pending.resume_id != state.resumed_as:
            raise _overtaken(pending)
        return lockstep.begin(state, pending.report)

    def _stored_answer(self, pending: _Pending, state: JobState) -> Directive:
        number = pending.report.directive_number
        answer = self._storage.answer(pending.job_id, number)
        if answer is None:
            raise PreconditionError(f"report.directive_number: {number} was never issued")
        if answer.fingerprint != pending.fingerprint:
            if pending.resume_id != state.resumed_as:
                raise _overtaken(pending)
            raise PreconditionError(f"report.directive_number: another report on {number} was taken")
        return answer.directive

    def _search(self, group: Sequence[_Searching]) -> None:
        try:
            with self._observer.working(PipelineTask.SEARCH, [searching.pending.origin for searching in group]):
                found = lockstep.finish_all([searching.search for searching in group])
        except BaseException as error:
            for searching in group:
                _refuse(searching, error)
            return
        pairs = zip(group, found, strict=True)
        ready = [(searching.pending, searching.stored, transition) for searching, transition in pairs]
        self._write(ready, searched=True)

    def _write(self, ready: Sequence[tuple[_Pending, StoredJob, Transition]], *, searched: bool) -> None:
        """Commits what the reports led to, then answers them."""
        if not ready:
            return
        changes = [
            Change(stored, transition.report or pending.report, pending.fingerprint, transition)
            for pending, stored, transition in ready
        ]
        try:
            with self._observer.working(PipelineTask.COMMIT, [pending.origin for pending, _, _ in ready]):
                recorded = self._storage.record(changes, self._now())
        except Exception as error:
            if len(ready) > 1 and not isinstance(error, StorageError):
                for one in ready:  # one that can't be written does not take the others with it
                    self._write([one], searched=searched)
                return
            for pending, _, _ in ready:
                self._cache.forget(pending.job_id)
                pending.answer.set_exception(error)
            return
        for (pending, _, transition), job in zip(ready, recorded, strict=True):
            if job is not None:
                self._cache.put(job)
                pending.answer.set_result(transition.directive)
                self._observer.answered(pending.report.outcome, searched=searched)
            else:
                # Another request moved the job meanwhile: look again, this report may be in by now.
                self._observer.conflicted()
                self._cache.forget(pending.job_id)
                self._queue(self._reports, pending, pending)

    def _queue(self, worker: BatchWorker[T], item: T, pending: _Pending) -> None:
        """Hands a report on to a worker; one that is full or closed takes it no further."""
        if not worker.put(item):
            pending.answer.set_exception(OverloadError("the server is stopping, or far behind; try again"))
