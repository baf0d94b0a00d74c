"""Where a run ends, as the client knows it, and the changes of it that wait for the end of a search. Pure."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

from lrpilot.arguments import whole
from lrpilot.errors import ConfigError
from lrpilot.v1 import tuner_pb2 as pb


class Waiting(NamedTuple):
    """A change of the plan that waits for the end of a search."""

    change: pb.PlanChange
    scales_betas: bool = False
    """Whether Adam's betas follow the batch size."""


def planned_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int | None:
    """The optimizer steps of a run whose end is told in steps or in epochs; None: in neither.

    Raises:
        ConfigError: both are given, or an end in epochs without one of its two numbers, or with one that is none.
    """
    if epochs is None and steps_per_epoch is None:
        return total_steps
    if total_steps is not None:
        raise ConfigError(f"epochs: {epochs!r}, and total_steps is {total_steps!r}: give one of them")
    wanted = "epochs and steps_per_epoch, two whole numbers from 1 on, as epochs=10, steps_per_epoch=len(loader)"
    return whole("epochs", epochs, wanted) * whole("steps_per_epoch", steps_per_epoch, wanted)


class RunPlan:
    """The plan of one run: the server's, once it has told; until then, and without it, what was asked for."""

    def __init__(self, total_steps: int | None, total_time_s: float | None = None) -> None:
        """Ends after so many optimizer steps, search included, or after a time; None, None: until the loop stops."""
        self._total_time_s = total_time_s
        self.total_steps = total_steps
        """Optimizer steps of the run, search included; None: no end is known."""
        self.batch_size: int | None = None
        """What the training program has said of it; None: nothing."""
        self._before: int | None = None
        self._annealing = False
        self._waiting: collections.deque[Waiting] = collections.deque()
        # Those that wait, besides, to be agreed on by several ranks.
        self._put_off: list[Waiting] = []

    @property
    def annealing(self) -> bool:
        """Whether the run is in an annealing that can be undone, or has come to its end."""
        return self._annealing

    @property
    def has_end(self) -> bool:
        """Whether the run has an end in steps, or will have one with the changes that wait."""
        anneals = any(change.kind == pb.PLAN_CHANGE_KIND_ANNEAL for change, _ in self._later)
        return self.total_steps is not None or anneals

    @property
    def latest_total_steps(self) -> int | None:
        """Where the run ends with the changes that wait; an annealing among them has no end before its turn."""
        total_steps = self.total_steps
        for change, _ in self._later:
            if change.kind == pb.PLAN_CHANGE_KIND_EXTEND:
                total_steps = _extended(total_steps, change)
        return total_steps

    def steps_in_time(self, elapsed_s: float, steps: int) -> int | None:
        """How many more steps the time suffices for, at the pace of the steps so far.

        None: the run does not end by time, an end in steps is known by now, or no step has been made.
        """
        if self._total_time_s is None or self.total_steps is not None or not (steps and elapsed_s > 0):
            return None
        return max(int((self._total_time_s - elapsed_s) * steps / elapsed_s), 0)

    @property
    def waits(self) -> bool:
        """Whether a change waits."""
        return bool(self._waiting)

    def wait(self, change: Waiting) -> None:
        """A change waits for the end of the search."""
        self._waiting.append(change)

    def waiting(self) -> Waiting | None:
        """The change whose turn it is, which waits no more; None: there is none."""
        return self._waiting.popleft() if self._waiting else None

    def put_off(self) -> None:
        """The changes that wait have to be agreed on, by several ranks, before it is their turn."""
        self._put_off += self._waiting
        self._waiting.clear()

    @property
    def has_put_off(self) -> bool:
        """Whether a change has to be agreed on."""
        return bool(self._put_off)

    def agree(self) -> None:
        """The changes that had to be agreed on just wait."""
        self._waiting.extend(self.take_put_off())

    def take_put_off(self) -> list[Waiting]:
        """The changes that have to be agreed on, which are forgotten."""
        found, self._put_off = self._put_off, []
        return found

    @property
    def _later(self) -> list[Waiting]:
        return [*self._waiting, *self._put_off]

    def change(self, change: pb.PlanChange, steps: int) -> None:
        """A change takes effect after so many steps, search included, as far as the client can tell."""
        if change.kind == pb.PLAN_CHANGE_KIND_EXTEND:
            self.total_steps = _extended(self.total_steps, change)
        elif change.kind == pb.PLAN_CHANGE_KIND_ANNEAL:
            if not self._annealing:
                self._before = self.total_steps
            self.total_steps = steps + change.anneal_steps
        elif change.kind == pb.PLAN_CHANGE_KIND_UNDO_ANNEALING:
            self.total_steps = None if self._before is None else max(self._before, steps)
        self._annealing = change.kind == pb.PLAN_CHANGE_KIND_ANNEAL

    def follow(self, directive: pb.Directive) -> None:
        """A directive tells of a change that takes effect with it, or takes a snapshot: what is undone leads there."""
        if directive.HasField("change"):
            change = directive.change
            anneals = change.kind == pb.PLAN_CHANGE_KIND_ANNEAL
            if anneals and not self._annealing:
                self._before = self.total_steps
            self._annealing = anneals
            self.total_steps = change.total_steps if change.HasField("total_steps") else None
        elif directive.snapshot:
            self._annealing = False

    def state_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "total_steps": self.total_steps,
            "total_time_s": self._total_time_s,
            "batch_size": self.batch_size,
            "before": self._before,
            "annealing": self._annealing,
            "waiting": [(change.SerializeToString(), *others) for change, *others in self._later],
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RunPlan:
        """What `state_dict` gave."""
        plan = cls(state["total_steps"], state["total_time_s"])
        plan.batch_size = state["batch_size"]
        plan._before, plan._annealing = state["before"], state["annealing"]
        plan._waiting.extend(Waiting(pb.PlanChange.FromString(change), *others) for change, *others in state["waiting"])
        return plan


def _extended(total_steps: int | None, change: pb.PlanChange) -> int | None:
    """The end of a run after a change that moves it from `total_steps`; None: it has none that could be moved."""
    if not change.HasField("later_steps"):
        return change.total_steps
    return None if total_steps is None else total_steps + change.later_steps
