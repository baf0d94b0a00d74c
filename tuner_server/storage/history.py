"""A job's history as those who tell it go through it: entry by entry, and as often as it takes."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator

from tuner_server.core.errors import ConflictError
from tuner_server.core.job.schedule import Outline
from tuner_server.storage.base import Entry, Storage


class History(abc.ABC):
    """All directives of a job in the order of their numbers, with their reports, the outstanding one last."""

    @abc.abstractmethod
    def read(self, *, losses: bool = False, measures: bool = False, after: int = 0) -> Iterator[Entry]:
        """Goes through it, in order.

        Args:
            losses: whether the loss of every step is wanted; otherwise it may be missing.
            measures: whether the measures of every step are wanted with the losses; otherwise they may be missing.
            after: the number of the entry after which it begins; 0: with the first one.
        """

    @property
    def outline(self) -> Outline:
        """What it comes to."""
        return Outline.of(self.read())


class StoredHistory(History):
    """A history in a database: only as much of it as is being looked at is in memory."""

    def __init__(self, storage: Storage, job_id: str, until: int, check: Callable[[], None]) -> None:
        """Reads from `storage` when it is gone through.

        Args:
            storage: where the job is.
            job_id: the job's id.
            until: the directive that was outstanding when the job was loaded; what came later is no part of it.
            check: raises as soon as nobody waits for what is read any more; called for every entry.
        """
        self._storage, self._job_id, self._until, self._check = storage, job_id, until, check
        self._outline: Outline | None = None

    def read(self, *, losses: bool = False, measures: bool = False, after: int = 0) -> Iterator[Entry]:
        """Goes through it. Raises: NotFoundError; ConflictError; StorageError; what `check` raises."""
        number, wanted = 0, {"losses": losses, "measures": measures}
        for entry in self._storage.history(self._job_id, **wanted, after=after, until=self._until):
            self._check()
            number = entry.directive.number
            if number < self._until and entry.report is None:
                break  # it is outstanding now
            yield entry
        if number != self._until:
            raise ConflictError(f"job {self._job_id}: it has gone back since it was loaded; ask again")

    @property
    def outline(self) -> Outline:
        """What it comes to; read once. Raises: as `read`."""
        if self._outline is None:
            self._outline = super().outline
        return self._outline


class KnownHistory(list[Entry], History):
    """A history that somebody has told, whole."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Holds the entries, the outstanding one last."""
        super().__init__(entries)

    def read(self, *, losses: bool = False, measures: bool = False, after: int = 0) -> Iterator[Entry]:
        """Goes through it, losses and measures included."""
        return iter(self[after:])
