"""What a pipeline tells whoever wants to know how it goes."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Sequence
from contextlib import AbstractContextManager

from tuner_server.core.messages import Outcome


class PipelineTask(enum.StrEnum):
    """A part of the work, done for a group of reports at a time."""

    DECIDE = "decide"
    SEARCH = "search"
    COMMIT = "commit"


class PipelineObserver:
    """Hears nothing. Those that do derive from it; their methods are called in the pipeline's threads, and are fast."""

    def origin(self) -> object:
        """Called where a report comes in, in its caller's context: whatever is to come along with it."""
        return None

    def working(self, part: PipelineTask, origins: Sequence[object]) -> AbstractContextManager[None]:
        """Is open while a part is worked on, for the reports that `origins` came with."""
        return contextlib.nullcontext()

    def answered(self, outcome: Outcome, *, searched: bool) -> None:
        """A report with that outcome was committed; whether its answer needed a search."""

    def repeated(self) -> None:
        """A report had been taken before, and got the stored answer."""

    def conflicted(self) -> None:
        """A report was not written, because another process moved its job; it is looked at again."""
