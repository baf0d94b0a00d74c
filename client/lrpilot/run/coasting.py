"""The steps that are left when the tuning itself has failed: nothing is asked, reported or rolled back any more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Self, TypeVar

from lrpilot.run.lease import Lease
from lrpilot.session.annealing import LONGEST_PART, profile_to_zero, rise_of_rest
from lrpilot.v1 import tuner_pb2 as pb

Result = TypeVar("Result")
log = logging.getLogger("lrpilot")


class Coasting(Lease):
    """Steps at an LR that falls to zero, or stays where there is no end, with nothing due before the last of them."""

    def __init__(self, profile: pb.Profile, remaining: int | None, done: int = 0) -> None:
        """Starts with the first of `remaining` steps (None: there is no end), so many that losses find room.

        In a run that is resumed, `done` of these have been made.
        """
        n_steps = LONGEST_PART if remaining is None else min(remaining, LONGEST_PART)
        super().__init__(
            pb.Directive(
                phase=pb.PHASE_TRAIN,
                n_steps=n_steps,
                profile=profile,
                batches=pb.BATCH_SOURCE_REPLAYED,
                reason="the tuning has failed: annealing",
            ),
            done,
        )
        self.next_event = n_steps
        self.remaining = remaining
        """Steps from its first one to the end of the run; None: there is no end."""

    @classmethod
    def over(cls, remaining: int | None, lr: float, rise_from: float | None = None) -> Self:
        """Steps that lead from `lr` to zero; for ever at `lr` if there is no end.

        A run that is at a lower LR, `rise_from`, rises first.
        """
        return cls(profile_to_zero(lr, remaining, **rise_of_rest(rise_from, lr, remaining)), remaining)

    def after(self) -> Self | None:
        """What follows on these steps; None: the budget is spent."""
        if self.remaining is None:
            return type(self)(self.directive.profile, None)
        remaining = self.remaining - self.directive.n_steps
        profile = pb.Profile()
        profile.CopyFrom(self.directive.profile)
        profile.offset += self.directive.n_steps
        return type(self)(profile, remaining) if remaining else None


def attempt(act: Callable[[], Result]) -> Result | None:
    """What `act` gives, or None if it raises: where the tuning has failed already, and is only tidied up."""
    try:
        return act()
    except Exception:
        log.debug("lrpilot: after the tuning has failed", exc_info=True)
        return None
