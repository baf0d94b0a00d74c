"""Runs the searches of several jobs in lock step: what they ask for at the same time is computed in one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence

from tuner_server.core.faults import guarded
from tuner_server.core.job import machine
from tuner_server.core.job.machine import JobState, Transition
from tuner_server.core.messages import Report
from tuner_server.core.search.suggest import Query, Suggestion, suggest, suggest_all


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PendingSearch:
    """A report whose answer waits for a suggestion. It can be answered once."""

    query: Query
    _rest: Generator[Query, Suggestion, Transition]

    def answer(self, found: Suggestion | Exception) -> Transition | PendingSearch:
        """Goes on with the suggestion, or without it, up to the next one that is needed."""
        if isinstance(found, Exception):
            return _resumed(lambda: self._rest.throw(found), self._rest)
        return _resumed(lambda: self._rest.send(found), self._rest)


def begin(state: JobState, report: Report) -> Transition | PendingSearch:
    """Takes a report as far as it goes without a suggestion. Raises: as `machine.advance`."""
    rest = machine.advancing(state, report)
    return _resumed(lambda: next(rest), rest)


def finish_all(searches: Sequence[PendingSearch]) -> list[Transition]:
    """The transitions of all, each what `machine.advance` gives, bit for bit. A failure fails its own job alone."""
    results: list[Transition | PendingSearch] = list(searches)
    while waiting := {i: result for i, result in enumerate(results) if isinstance(result, PendingSearch)}:
        found = _found([search.query for search in waiting.values()])
        for (i, search), suggestion in zip(waiting.items(), found, strict=True):
            results[i] = search.answer(suggestion)
    return [result for result in results if isinstance(result, Transition)]


def _resumed(go: Callable[[], Query], rest: Generator[Query, Suggestion, Transition]) -> Transition | PendingSearch:
    try:
        return PendingSearch(go(), rest)
    except StopIteration as done:
        transition: Transition = done.value
        return transition


def _found(queries: Sequence[Query]) -> list[Suggestion | Exception]:
    """The suggestions; where the batch fails, each by itself, so that one failure is one job's."""
    try:
        with guarded("a query"):
            return list(suggest_all(queries))
    except Exception:
        return [_tried(query) for query in queries]


def _tried(query: Query) -> Suggestion | Exception:
    try:
        with guarded("a query"):
            return suggest(query)
    except Exception as error:
        return error
