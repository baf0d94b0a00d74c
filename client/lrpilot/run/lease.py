"""One directive being carried out: what comes after each step. Pure: it counts, and touches nothing."""

from __future__ import annotations

import enum
import math

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import committed
from lrpilot.wire.messages.profiles import profile_from_proto
from lrpilot.wire.profile import Profile

CHECKS = 8
"""How often one looks for divergence within a probe: giving up late wastes at most an eighth or two of it."""
LONGEST_BLIND = 50
"""The most steps between two looks: committed steps that diverge are all lost."""

LRS = 32
"""LRs that are computed at once."""


class Event(enum.Flag):
    """What is due after a step, besides setting the next LR."""

    CHECK = enum.auto()
    """Look whether the losses diverge."""
    VALIDATE = enum.auto()
    PART = enum.auto()
    """Report the steps so far."""
    END = enum.auto()


class Lease:
    """A directive with at least one step, and how far it has come.

    `next_event` is the step count at which `event()` must be asked; before it, a step needs nothing but its LR. That
    keeps an ordinary step to one comparison.
    """

    def __init__(self, directive: pb.Directive, done: int = 0, *, steps_between_looks: int = 1) -> None:
        """Starts before the first step.

        Args:
            directive: what is carried out.
            done: the steps that have been made of it, in a run that is resumed.
            steps_between_looks: the fewest after which it is worth looking for a divergence.
        """
        self.directive = directive
        self.profile: Profile = profile_from_proto(directive.profile)
        self.constant = self.profile.stands
        self.committed = committed(directive)
        self.done = done
        self._lrs: list[float] = []
        self._first_lr = 0
        self._validate_at = frozenset(directive.validate_at)
        self._check_every = min(max(directive.n_steps // CHECKS, steps_between_looks), LONGEST_BLIND)
        self.next_event = self._next_event()

    @property
    def validates_first(self) -> bool:
        """Whether a validation is due before the first step."""
        return 0 in self._validate_at

    @property
    def limit(self) -> float:
        """The loss above which losses diverge; infinite: there is none."""
        return self.directive.give_up_above if self.directive.HasField("give_up_above") else math.inf

    @property
    def room(self) -> int:
        """How many losses come between two reports, at most."""
        return min(self.directive.report_every or self.directive.n_steps, self.directive.n_steps)

    def lr(self) -> float:
        """The LR of the step that comes next. LRs are computed some at once, which takes a tenth of one at a time."""
        n = self.done - self._first_lr
        if not 0 <= n < len(self._lrs):
            self._lrs = [self.profile.lr(step) for step in range(self.done, self.done + LRS)]
            self._first_lr, n = self.done, 0
        return self._lrs[n]

    def looked_after(self, n_steps: int) -> int:
        """After how many steps a divergence within the first `n_steps` of them has been looked for."""
        return min(-(-n_steps // self._check_every) * self._check_every, self.directive.n_steps)

    def take_back(self, n_steps: int) -> None:
        """Some steps were none: they are still to come."""
        self.done -= n_steps
        self.next_event = self._next_event()

    def expire(self) -> None:
        """Its steps are reported: none is done, and what comes after the next one is due at once."""
        self.done, self.next_event = 0, 1

    def event(self) -> Event:
        """What is due after `done` steps, and moves `next_event` on."""
        done, directive = self.done, self.directive
        event = Event(0)
        if done >= directive.n_steps:
            event |= Event.END | Event.CHECK
        elif directive.report_every and done % directive.report_every == 0:
            event |= Event.PART | Event.CHECK
        if done % self._check_every == 0:
            event |= Event.CHECK
        if done in self._validate_at:
            event |= Event.VALIDATE
        self.next_event = self._next_event()
        return event

    def _next_event(self) -> int:
        after = self.done + 1
        candidates = [self.directive.n_steps, -(-after // self._check_every) * self._check_every]
        if self.directive.report_every:
            candidates.append(-(-after // self.directive.report_every) * self.directive.report_every)
        candidates.extend(step for step in self._validate_at if step >= after)
        return min(candidates)
