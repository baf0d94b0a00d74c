"""Whether a run can go back to its snapshot, and whether it has to. Pure."""

from __future__ import annotations


class Rollback:
    """What is known of the way back: it is possible, due, or abandoned."""

    def __init__(self, *, possible: bool = False) -> None:
        """Starts where no steps wait to be rolled back; in a run that is resumed, maybe with a snapshot."""
        self._possible = possible
        self._due = False
        self._abandoned = False

    @property
    def possible(self) -> bool:
        """Whether there is a snapshot."""
        return self._possible

    @property
    def due(self) -> bool:
        """Whether steps wait to be rolled back to the snapshot."""
        return self._due

    @property
    def abandoned(self) -> bool:
        """Whether the snapshot is of use no more."""
        return self._abandoned

    def snapshot_taken(self) -> None:
        """There is a snapshot from now on."""
        self._possible = True

    def snapshot_failed(self) -> None:
        """There is no snapshot: the last one could not be taken."""
        self._possible = False

    def steps_reported(self, *, stay: bool) -> None:
        """Steps are over; where they are not to stay, a rollback is due if it is possible."""
        self._due = self._possible and not stay

    def begun(self) -> None:
        """The rollback is being made, or nothing is to be rolled back any more: none is due."""
        self._due = False

    def abandon(self) -> None:
        """The tuning has ended before the run: the snapshot is of use no more."""
        self._abandoned = True
