"""How a job is taken back: its history is replayed up to an earlier directive."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator

from tuner_server.core.errors import BusyError, PreconditionError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Status
from tuner_server.core.messages import ChangeOrigin, Outcome, PlanChange, Report
from tuner_server.service.long_reads import RETRY_S, is_long
from tuner_server.storage import Entry, StoredHistory, StoredJob


class Replays:
    """Takes jobs back, one long one at a time: a policy sees its reports as numbers of Python's."""

    def __init__(self) -> None:
        """Begins with none."""
        self._long = threading.Lock()

    def back(self, stored: StoredJob, number: int, history: StoredHistory) -> JobState:
        """The state in which directive `number` was outstanding; a job that was cancelled since stays cancelled.

        Args:
            stored: the job.
            number: of an earlier directive than the outstanding one.
            history: of the job, as it was stored then.

        Raises:
            BusyError: another long job is being taken back.
            PreconditionError: this version of the code decides otherwise than the one that issued the directive.
        """
        with self._turn(stored):
            return _replayed(stored, number, history)

    @contextlib.contextmanager
    def _turn(self, stored: StoredJob) -> Iterator[None]:
        """The one turn to replay a long job. Nobody waits for it in a thread, which others need meanwhile.

        Raises: BusyError: it is another job's, or an earlier request's for this one.
        """
        if not is_long(stored):
            yield
            return
        if not self._long.acquire(blocking=False):
            raise BusyError("another long job is being taken back; come again later", RETRY_S)
        try:
            yield
        finally:
            self._long.release()


def _replayed(stored: StoredJob, number: int, history: StoredHistory) -> JobState:
    entries = history.read(losses=True, measures=True)
    # One report at a time: all of them as numbers of Python's would be tens of times what is stored.
    reports = map(_report, itertools.islice(entries, number - 1))
    earlier = machine.replay(stored.state.config, reports, stored.state.prior).state
    outstanding = next(entries)
    asked = _asked_since(itertools.chain([outstanding], entries), stored.state)
    waits = dict.fromkeys((*earlier.requested, *asked))
    update = {"requested": tuple(waits), "request_ids": stored.state.request_ids}
    earlier = earlier.model_copy(update=update)
    if earlier.directive != outstanding.directive:
        raise PreconditionError(
            f"directive_number: this version of LRPilot would not issue directive {number} as it was issued; "
            "finish the job with the version that began it"
        )
    if stored.state.status is Status.CANCELLED:
        return machine.cancel(earlier, stored.state.message)
    return earlier


def _asked_since(forgotten: Iterable[Entry], state: JobState) -> list[PlanChange]:
    """What somebody asked for at the server while the client was where it goes back from: that is not forgotten.

    The client's own changes come again with its program.

    Args:
        forgotten: what is forgotten, from the directive on to which the client goes back.
        state: the job's, before it goes back.
    """
    changes = [
        entry.report.change
        for entry, following in itertools.pairwise(forgotten)
        if entry.report is not None and following.directive.change is not None and not _repeats(entry)
    ]
    return [change for change in (*changes, *state.requested) if change and change.origin is ChangeOrigin.OPERATOR]


def _repeats(entry: Entry) -> bool:
    """Whether the change that takes effect with a report did so before, when its client could not hear of it."""
    return entry.report is not None and entry.report.outcome is Outcome.REPLACED and entry.directive.change is not None


def _report(entry: Entry) -> Report:
    """A report as it came in."""
    stored = entry.report
    assert stored is not None
    assert stored.losses is not None
    return Report(
        directive_number=entry.directive.number,
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
