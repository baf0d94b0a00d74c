"""Whether a history keeps the promises: every answer must be one that some order of the calls explains.

A call takes effect once, between the moments when it was sent and when it was answered. One that was not, as its
process died or the database failed, takes effect before that or never. For each job the checker looks for an order in
which the reference gives every client what it was told, and leaves what the database has in the end (linearizability,
Herlihy and Wing 1990; the search is Wing and Gong's, with Lowe's memory of where it has been).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tests.simulation import reference
from tests.simulation.history import Call, History, Kept
from tests.simulation.reference import ReferenceJob, Step, content
from tuner_server.core.job.machine import Status
from tuner_server.rpc import convert

MOST_PLACES = 50_000
"""Places that the search looks at; a sound history needs about as many as it has calls."""
PROMISES = {
    "Advance": "directive n + 1 is decided once, and a repeated report gets that answer",
    "CreateJob": "a repeated request gets the same job",
    "ResumeJob": "a job goes back to the directive that was issued, and forgets what came after",
    "ChangePlan": "a change that was asked for waits until it takes effect, once",
    "CancelJob": "a job that was cancelled stays so",
    "LeaveJob": "a client that leaves changes nothing of what its job is at",
    "GetJob": "whoever looks sees the job as it is",
}
IN_THE_END = "what was acknowledged is in the database, and nothing else"
PURE = "a schedule is a function of config, seed and the reports taken"
WHOLE = "exactly total_steps steps are made"


def violations(history: History, kept: Sequence[Kept]) -> list[str]:
    """What is wrong with a history, in a sentence each; none: nothing is."""
    found = list(history.complaints)
    by_request: dict[str, list[Call]] = {}
    by_job: dict[str, list[Call]] = {}
    for call in history.calls:
        if call.method == "CreateJob":
            by_request.setdefault(call.request.request_id, []).append(call)
        else:
            by_job.setdefault(call.request.job_id, []).append(call)
    jobs = {job.request_id: job for job in kept}
    if len(jobs) != len(kept):
        found.append(f"{PROMISES['CreateJob']}: two jobs have one request id")
    for request_id, creates in by_request.items():
        told = {call.answer.job.id for call in creates if call.answer is not None}
        job = jobs.pop(request_id, None)
        if job is None:
            if told:
                found.append(f"{IN_THE_END}: job {', '.join(told)} is gone")
            continue
        name = job.schedule.job.id
        if told - {name}:
            found.append(f"{PROMISES['CreateJob']}: {sorted(told | {name})} have one request id")
            continue
        found += _violations_of_job(sorted([*creates, *by_job.pop(name, [])], key=lambda call: call.begun), job)
    found += [f"{IN_THE_END}: nobody asked for job {job.schedule.job.id}" for job in jobs.values()]
    return found


def _violations_of_job(calls: list[Call], kept: Kept) -> list[str]:
    search = _Search(calls, kept)
    end = search.run()
    if end is None:
        return [search.explanation()]
    found = []
    for i, state in enumerate(end.states):
        cancelled = state.status is Status.CANCELLED  # which is no report's doing
        if not cancelled and reference.folded(end, i).directive != state.directive:
            found.append(f"{PURE}: directive {i + 1} of job {kept.schedule.job.id}")
            break
    state = end.state
    if state.status is Status.FINISHED and state.total_steps is not None and state.run_steps != state.total_steps:
        found.append(f"{WHOLE}: {state.run_steps} of {state.total_steps} in job {kept.schedule.job.id}")
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where the search is: which calls have taken effect, and what came of it."""

    done: int
    """One bit a call."""
    job: ReferenceJob


class _Search:
    """A search for an order of the calls of one job."""

    def __init__(self, calls: list[Call], kept: Kept) -> None:
        calls = [call for call in calls if call.ended > call.begun]
        self._calls, self._kept = calls, kept
        self._first = reference.created(convert.config_from_pb(kept.schedule.job.config), kept.prior)
        self._digests = [reference.digest_of(call.method, call.request) for call in calls]
        self._told = sum(1 << i for i, call in enumerate(calls) if call.told)
        self._by_end = sorted((i for i, call in enumerate(calls) if call.told), key=lambda i: calls[i].ended)
        self._deepest = (-1, "")

    def run(self) -> ReferenceJob | None:
        """The job in the end; None: no order explains what clients were told."""
        # The first of the calls that made the job comes before all others: nobody else knows its name.
        places = [_Place(0, self._first)]
        been = set()
        while places:
            place = places.pop()
            if (place.done, place.job.key) in been:
                continue
            been.add((place.done, place.job.key))
            if len(been) > MOST_PLACES:
                self._deepest = (-1, f"{IN_THE_END}: no order was found among {MOST_PLACES} places")
                return None
            if place.done & self._told == self._told:
                difference = self._difference(place.job)
                if not difference:
                    return place.job
                self._note(len(self._calls), f"{IN_THE_END}: {difference}")
            # The last one is looked at first: that whose client was told first, and only then those nobody was told of.
            places += reversed(self._next(place))
        return None

    def explanation(self) -> str:
        """What could not be explained, at the place from which most could."""
        return self._deepest[1]

    def _next(self, place: _Place) -> list[_Place]:
        limit = next((self._calls[i].ended for i in self._by_end if not place.done >> i & 1), math.inf)
        latest = self._calls[place.done.bit_length() - 1].begun if place.done else -1
        told, untold = [], []
        tried = set()
        refuted = ""
        for i, call in enumerate(self._calls):
            if call.begun >= limit:
                break
            if place.done >> i & 1 or call.ended < latest:
                continue
            if not call.told:
                if self._digests[i] in tried:
                    continue  # of equal calls that nobody was told of, one is like the other
                tried.add(self._digests[i])
            step = reference.step(place.job, call.method, call.request, self._digests[i])
            after = _Place(place.done | 1 << i, step.job)
            if not call.told:
                if step.job.key != place.job.key:
                    untold.append(after)
            elif _explains(step, call):
                told.append((call.ended, after))
            elif call.ended == limit:
                refuted = f"{PROMISES[call.method]}: {call}, where the reference {_words(step, place.job)}"
        if refuted:
            self._note(place.done.bit_count(), refuted)
        return [after for _, after in sorted(told, key=lambda each: each[0])] + untold

    def _note(self, depth: int, words: str) -> None:
        if depth >= self._deepest[0]:
            self._deepest = (depth, words)

    def _difference(self, job: ReferenceJob) -> str:
        """What the database has otherwise than the reference; empty: nothing."""
        kept = self._kept
        name = f"job {kept.schedule.job.id}"
        if len(kept.schedule.history) != len(job.states):
            return f"{name} has {len(kept.schedule.history)} directives and not {len(job.states)}"
        if reference.shown_job(kept.schedule.job) != reference.shown_job(reference.stored(job)):
            return f"{name} is shown otherwise than it is"
        for i, (entry, state) in enumerate(zip(kept.schedule.history, job.states, strict=True)):
            if content(entry.directive) != content(convert.directive_to_pb(state.directive)):
                return f"directive {i + 1} of {name} is another one"
            if i == len(job.taken):
                if entry.HasField("report") or kept.fingerprints[i] is not None:
                    return f"{name} has a report that nobody sent"
            elif kept.fingerprints[i] != job.taken[i].fingerprint:
                return f"{name} has another report {i + 1}, or its answer is lost"
            elif list(entry.report.losses) != list(job.taken[i].report.losses):
                return f"{name} has other losses in report {i + 1}"
        return ""


def _explains(step: Step, call: Call) -> bool:
    """Whether the reference tells the caller what it was told."""
    if call.refused or step.refused:
        return call.refused == step.refused
    if call.method == "Advance":
        return step.shown == content(call.answer.directive)
    return call.method == "LeaveJob" or step.shown == reference.shown_job(call.answer.job)


def _words(step: Step, job: ReferenceJob) -> str:
    where = f"at directive {len(job.states)}"
    return f"refuses with {step.refused} {where}" if step.refused else f"has another answer {where}"
