"""How a job is taken back: its history is replayed up to an earlier directive."""

from __future__ import annotations

import contextlib
import datetime
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

    @contextlib.contextmanager
    def turn(self, stored: StoredJob) -> Iterator[None]:
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


class Replay:
    """One job that is taken back, whatever is reported on it meanwhile.

    A former life of the run may report faster than a long history is replayed. What it reports comes after all that is
    replayed, which is done once; only another client that takes the job back further begins it anew.
    """

    def __init__(self, number: int) -> None:
        """Takes a job back to where directive `number` was outstanding."""
        self._number = number
        self._state: JobState | None = None
        """What was replayed."""
        self._last: datetime.datetime | None = None
        """The time of the last report that was."""

    def back(self, stored: StoredJob, history: StoredHistory) -> JobState:
        """The state in which the directive was outstanding; a job that was cancelled since stays cancelled.

        Args:
            stored: the job, whose outstanding directive is a later one.
            history: of the job, as it was stored then.

        Raises:
            PreconditionError: this version of the code decides otherwise than the one that issued the directive.
        """
        entries = self._begun(stored, history)
        assert self._state is not None
        outstanding = next(entries)
        asked = _asked_since(itertools.chain([outstanding], entries), stored.state)
        waits = dict.fromkeys((*self._state.requested, *asked))
        # It may have got another name meanwhile.
        update = {"config": stored.state.config, "requested": tuple(waits), "request_ids": stored.state.request_ids}
        earlier = self._state.model_copy(update=update)
        if earlier.directive != outstanding.directive:
            raise PreconditionError(
                f"directive_number: this version of LRPilot would not issue directive {self._number} as it was issued; "
                "finish the job with the version that began it"
            )
        if stored.state.status is Status.CANCELLED:
            return machine.cancel(earlier, stored.state.message)
        return earlier

    def _begun(self, stored: StoredJob, history: StoredHistory) -> Iterator[Entry]:
        """The entries from the directive on, what comes before them having been replayed."""
        if self._state is not None and self._last is not None:
            entries = history.read(after=self._number - 2)
            if (report := next(entries).report) is not None and report.report_time == self._last:
                return entries
        entries = history.read(losses=True, measures=True)
        # One report at a time: all of them as numbers of Python's would be tens of times what is stored.
        reports = map(self._report, itertools.islice(entries, self._number - 1))
        self._state = machine.replay(stored.state.config, reports, stored.state.prior).state
        return entries

    def _report(self, entry: Entry) -> Report:
        """A report as it came in."""
        assert entry.report is not None
        self._last = entry.report.report_time
        return entry.report_as_it_came()


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
