"""Where a run ends, as the client knows it, and the change of it that waits for the end of a probe. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrpilot.v1 import tuner_pb2 as pb


class RunPlan:
    """The plan of one run: the server's, once it has told; until then, and without it, what was asked for."""

    def __init__(self, total_steps: int | None, total_time_s: float | None = None) -> None:
        """Ends after so many optimizer steps, search included, or after a time; None, None: until the loop stops."""
        self._total_time_s = total_time_s
        self.total_steps = total_steps
        """Optimizer steps of the run, search included; None: no end is known."""
        self.granted = 0
        """How many steps the last change of the end has added."""
        self.batch_size: int | None = None
        """What the training program has said of it; None: nothing."""
        self._before: int | None = None
        self._annealing = False
        self._waiting: pb.PlanChange | None = None

    @property
    def annealing(self) -> bool:
        """Whether the run is in an annealing that was asked for, or has come to its end."""
        return self._annealing

    def steps_in_time(self, elapsed_s: float, steps: int) -> int | None:
        """How many more steps the time suffices for, at the pace of the steps so far.

        None: the run does not end by time, an end in steps is known by now, or no step has been made.
        """
        if self._total_time_s is None or self.total_steps is not None or not (steps and elapsed_s > 0):
            return None
        return max(int((self._total_time_s - elapsed_s) * steps / elapsed_s), 0)

    def wait(self, change: pb.PlanChange) -> None:
        """A change goes with the next report."""
        self._waiting = change

    def waiting(self) -> pb.PlanChange | None:
        """The change that goes with this report; None: there is none. It waits no more."""
        change, self._waiting = self._waiting, None
        return change

    def change(self, change: pb.PlanChange, steps: int) -> None:
        """A change takes effect after so many steps, search included, as far as the client can tell."""
        self.granted = 0
        if change.kind == pb.PLAN_CHANGE_KIND_EXTEND:
            self.granted = max(change.total_steps - (self.total_steps or steps), 0)
            self.total_steps = change.total_steps
        elif change.kind == pb.PLAN_CHANGE_KIND_ANNEAL:
            self._before, self.total_steps = self.total_steps, steps + change.anneal_steps
        elif change.kind == pb.PLAN_CHANGE_KIND_UNDO_ANNEALING:
            self.total_steps = self._before
        self._annealing = change.kind == pb.PLAN_CHANGE_KIND_ANNEAL

    def follow(self, directive: pb.Directive) -> None:
        """A directive tells of a change that takes effect with it."""
        if not directive.HasField("change"):
            return
        change = directive.change
        if change.kind == pb.PLAN_CHANGE_KIND_ANNEAL and not self._annealing:
            self._before = self.total_steps
        self._annealing = change.kind == pb.PLAN_CHANGE_KIND_ANNEAL
        self.total_steps = change.total_steps if change.HasField("total_steps") else None

    def state_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "total_steps": self.total_steps,
            "total_time_s": self._total_time_s,
            "batch_size": self.batch_size,
            "before": self._before,
            "annealing": self._annealing,
            "waiting": None if self._waiting is None else self._waiting.SerializeToString(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RunPlan:
        """What `state_dict` gave."""
        plan = cls(state["total_steps"], state["total_time_s"])
        plan.batch_size = state["batch_size"]
        plan._before, plan._annealing = state["before"], state["annealing"]
        plan._waiting = None if state["waiting"] is None else pb.PlanChange.FromString(state["waiting"])
        return plan
