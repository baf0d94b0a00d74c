"""How a directive can end. Pure."""

from __future__ import annotations

import enum


class Outcome(enum.StrEnum):
    """How a directive ended; see `Outcome` of the wire contract."""

    COMPLETED = "completed"
    PARTIAL = "partial"
    DIVERGED = "diverged"
    REPLACED = "replaced"
    """Not carried out: the client could not reach the server, and trained on by itself."""
    FELL_SHORT = "fell_short"
    """Committed steps did worse than was promised, at losses that are no divergence."""
    UNREPEATABLE = "unrepeatable"
    """A probe did not begin with the loss that the first one began with: a rollback was not complete."""
    REPLANNED = "replanned"
    """It ended early, as the plan of the run changed. Committed steps stay."""

    @property
    def rolls_back(self) -> bool:
        """Whether committed steps that end so are not to stay."""
        return self in (Outcome.DIVERGED, Outcome.FELL_SHORT)
