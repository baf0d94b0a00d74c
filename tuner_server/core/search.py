"""Searches of several jobs side by side. (For now each is made at once.)"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tuner_server.core import job
from tuner_server.core.job import JobState, Transition
from tuner_server.core.messages import Report


@dataclasses.dataclass(frozen=True, slots=True)
class Search:
    """A report whose answer needs a suggestion."""

    state: JobState
    report: Report


def begin(state: JobState, report: Report) -> Transition | Search:
    """Takes a report as far as it goes without a suggestion. Raises: as `job.advance`."""
    return job.advance(state, report)


def finish_all(searches: Sequence[Search]) -> list[Transition]:
    """The transitions of all."""
    return [job.advance(search.state, search.report) for search in searches]
