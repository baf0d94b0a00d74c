"""The interface of those who want to know how the pipeline does: metrics and traces."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Sequence
from contextlib import AbstractContextManager

from tuner_server.core.messages import Outcome


class PipelineTask(enum.StrEnum):
    """A task of the pipeline, done for a group of reports at a time."""

    DECIDE = "decide"
    SEARCH = "search"
    COMMIT = "commit"


class PipelineObserver:
    """Ignores what it is told, and is the base of those who do not. Methods run in the pipeline's threads."""

    def origin(self) -> object:
        """What is to come along with a report; called where the report comes in, in its caller's context."""
        return None

    def working(self, task: PipelineTask, origins: Sequence[object]) -> AbstractContextManager[None]:
        """A context that is open while a task is done for the reports that `origins` came with."""
        return contextlib.nullcontext()

    def answered(self, outcome: Outcome, *, searched: bool) -> None:
        """A report with that outcome was committed; `searched` tells whether its answer needed a search."""

    def repeated(self) -> None:
        """A report had been taken before, and got the stored answer."""

    def conflicted(self) -> None:
        """A report was not written, because another process moved its job; it is looked at again."""
