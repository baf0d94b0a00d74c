"""What the log says of the directives of a run."""

from __future__ import annotations

import logging

from lrpilot.run.lease import Lease
from lrpilot.run.runners.suspicion import Suspicion

log = logging.getLogger("lrpilot")


class Announcer:
    """Says what a run does next: decisions for everybody, all else for who debugs.

    A decision is what begins a stage, or an LR that goes on for a new reason. The pieces of one plan, which have one
    stage and one reason, are told once.
    """

    def __init__(self) -> None:
        """Has said nothing yet."""
        self._told: tuple[int, str] | None = None
        self.suspicion = Suspicion()
        """What the losses say of the loop."""

    def announce(self, lease: Lease, phase: str) -> bool:
        """Says what comes next, and why; whether it is a decision."""
        directive = lease.directive
        stage, reason = directive.stage, directive.reason
        begins = lease.profile.offset == 0 or self._told is None or self._told[0] != stage
        decided = lease.committed and begins and self._told != (stage, reason)
        if decided:
            self._told = stage, reason
        if lease.committed:
            self.suspicion.search_over()
        level = logging.INFO if decided else logging.DEBUG
        log.log(level, "lrpilot: directive %d, %s: %.500s", directive.number, phase, reason)
        return decided
