"""Probes that the members of a population try at the same time, and what came of each. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrpilot.errors import ProtocolError
from lrpilot.run.lease import Lease
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.divergence import first_divergence


class Round:
    """A directive, and those that it told beforehand: each is tried by a member, and reported on in its turn."""

    def __init__(self, directive: pb.Directive, member: int) -> None:
        """Begins; where there are more members than probes, the first ones are tried by several."""
        self.directive = directive
        """The first probe, as the server gave it."""
        self.begun = False
        """Whether batches have been drawn."""
        self._probes = [directive, *directive.alongside]
        self._losses: list[Sequence[float]] = []
        own = self._probes[member % len(self._probes)]
        self.own = pb.Directive()
        """What this member does: the first probe, at the LRs and with the limit of its own one."""
        self.own.CopyFrom(directive)
        self.own.profile.CopyFrom(own.profile)
        self.own.ClearField("give_up_above")
        if own.HasField("give_up_above"):
            self.own.give_up_above = own.give_up_above

    def end(self, losses: Sequence[Sequence[float]]) -> None:
        """Notes the losses of all members, in order."""
        self._losses = list(losses[: len(self._probes)])

    @property
    def first_losses(self) -> list[float]:
        """The loss that each probe began with."""
        return [losses[0] for losses in self._losses]

    def report(self, directive: pb.Directive) -> pb.Report:
        """What came of a probe, as one rank alone would have reported it: given up where a divergence is seen.

        The report on the first one counts the steps of the round, so those that were made after that have no losses.

        Raises:
            ProtocolError: the directive is none of those that were tried.
        """
        number = directive.number - self.directive.number
        if not (0 <= number < len(self._losses) and directive.profile == self._probes[number].profile):
            raise ProtocolError(
                f"server: its directive {directive.number} is said to be tried, and was not", "INTERNAL"
            )
        losses, lease = self._losses[number], Lease(self._probes[number])
        diverged = first_divergence(losses, lease.limit)
        if diverged is None and len(losses) == directive.n_steps:
            return pb.Report(directive_number=directive.number, outcome=pb.OUTCOME_COMPLETED, losses=losses)
        seen = len(losses) if diverged is None else min(lease.looked_after(diverged + 1), len(losses))
        told = [*losses[:seen], *[math.nan] * (0 if number else len(losses) - seen)]
        return pb.Report(directive_number=directive.number, outcome=pb.OUTCOME_DIVERGED, losses=told)
