"""What is left of the budget, annealed to zero: what a run does while there is no server to ask.

Notation: a stretch is the steps since the client's last snapshot; a divergence undoes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrpilot.session.run_state import RunState
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import rest_of
from lrpilot.wire.rewarming import peak_of_rest, steps_of_rise

LONGEST_PART = 1000
"""The most steps between two looks for the server; losses are buffered for so long."""
FEWEST_PARTS = 20
"""The fewest parts that what is left is made in; after each of them the client looks for the server."""
DIVERGED_FACTOR = 0.5
"""What the LR is multiplied by after a divergence."""
WARM_UP_DIVISOR = 20
"""A run that has no committed step yet warms up over what is left, divided by this, as with policy budget."""


def profile_to_zero(lr: float, remaining_steps: int | None, *, warmup: int = 0, offset: int = 0) -> pb.Profile:
    """The LRs of what is left: linearly from `lr` to zero; without a known end (None), `lr` for one part.

    Args:
        lr: the peak.
        remaining_steps: how many steps are left, at least 1.
        warmup: steps of a warm-up that lead up to the peak.
        offset: how many of these are left out.
    """
    if remaining_steps is None:
        shape, end_lr, length = "constant", lr, LONGEST_PART
    else:
        shape, end_lr, length = "linear", 0.0, remaining_steps
    return pb.Profile(shape=shape, start_lr=lr, end_lr=end_lr, length=length + offset, offset=offset, warmup=warmup)


def lr_of_rest(kind: pb.PlanChangeKind.ValueType | None, run_state: RunState) -> float:
    """The LR that what is left of a run decays from, in its present plan.

    A run whose end has moved, or that is at zero, rises to the line from its peak to its end, as with a server.

    Args:
        kind: of the change that has led to it; None: the plan is as before.
        run_state: where the run is.
    """
    left = run_state.steps_left
    rises = kind in (pb.PLAN_CHANGE_KIND_EXTEND, pb.PLAN_CHANGE_KIND_UNDO_ANNEALING) or run_state.lr <= 0
    return peak_of_rest(run_state.peak, run_state.lr, run_state.steps, left) if rises and left else run_state.lr


def rise_of_rest(present_lr: float | None, lr: float, n_steps: int | None) -> dict[str, int]:
    """The warm-up of `profile_to_zero` for a run that goes on at a lower LR; none for another (None)."""
    if present_lr is None or n_steps is None or present_lr >= lr:
        return {}
    warmup = n_steps // WARM_UP_DIVISOR
    return {"warmup": warmup, "offset": steps_of_rise(present_lr, lr, warmup)}


class Annealing:
    """Directives for `remaining_steps` from `lr` linearly to zero; without a known end, at `lr` for ever.

    It takes reports as a server does, and remembers them for the server: `replacement` tells what was done without it.
    """

    def __init__(
        self,
        lr: float,
        remaining_steps: int | None,
        *,
        restore: bool,
        warm: bool,
        rolls_back: bool = True,
        rise_from: float | None = None,
    ) -> None:
        """Starts at `lr`, from the snapshot if `restore`; `remaining_steps` None: there is no end.

        Args:
            lr: the peak.
            remaining_steps: how many steps may still be run.
            restore: whether the steps before are to be rolled back.
            warm: whether there are committed steps already, so that the LR need not rise from zero.
            rolls_back: whether a divergence can undo steps. Otherwise they stay, and only the LR is halved.
            rise_from: the LR that a run which goes on is at, where that is lower: it rises from there.
        """
        self._rolls_back = rolls_back
        self._rise_from = rise_from
        self._lr = lr
        self._remaining = remaining_steps
        self._warm = warm
        self._open = pb.Directive()
        self._losses: list[float] = []
        self._wasted = 0
        self._wall_time_s = 0.0
        # Where it starts is where a divergence leads back to.
        self._begin(restore=restore, snapshot=rolls_back)
        self._stretch = self._open.profile

    @classmethod
    def of_rest(
        cls, run_state: RunState, change: pb.PlanChange | None, *, restore: bool, rolls_back: bool = True
    ) -> Annealing:
        """What is left of a run.

        Args:
            run_state: where it is, in its present plan.
            change: of the plan, which has led to it and is told with the first directive; None: there is none.
            restore: whether the steps before are to be rolled back.
            rolls_back: whether a divergence can undo steps.
        """
        annealing = cls(
            lr_of_rest(None if change is None else change.kind, run_state),
            run_state.steps_left,
            restore=restore,
            warm=run_state.warm,
            rolls_back=rolls_back,
            rise_from=run_state.lr if run_state.warm else None,
        )
        if change is not None:
            annealing._tell(change, run_state)
        return annealing

    def _tell(self, change: pb.PlanChange, run_state: RunState) -> None:
        """Says with the present directive what has changed, as a server does."""
        self._open.change.CopyFrom(change)
        self._open.change.origin = pb.PLAN_CHANGE_ORIGIN_CLIENT
        if run_state.remaining is not None:
            self._open.change.total_steps = run_state.steps + run_state.remaining

    def by_time(self, run_state: RunState) -> Annealing:
        """The rest of this annealing, once it is known how many steps the time of the run suffices for."""
        return Annealing(
            run_state.lr, run_state.steps_left, restore=False, warm=run_state.warm, rolls_back=self._rolls_back
        )

    @property
    def endless(self) -> bool:
        """Whether there is no end so far."""
        return self._remaining is None

    @property
    def directive(self) -> pb.Directive:
        """The outstanding one."""
        return self._open

    def take(self, report: pb.Report) -> None:
        """Goes on: the rest after a part, the stop after the end, half the LR, from the snapshot, on a divergence."""
        self._wall_time_s += report.wall_time_s
        if self._remaining is not None:
            self._remaining -= len(report.losses)
        if report.outcome == pb.OUTCOME_DIVERGED:
            if self._rolls_back:
                self._wasted += len(self._losses) + len(report.losses)
                self._losses.clear()
            else:
                self._losses += report.losses
            self._lr *= DIVERGED_FACTOR
            self._begin(restore=self._rolls_back, snapshot=False)
            self._stretch = self._open.profile
            return
        self._losses += report.losses
        if report.outcome == pb.OUTCOME_PARTIAL:
            self._open = rest_of(self._open, len(report.losses))
        else:
            self._begin(restore=False, snapshot=False)

    def replacement(self) -> pb.Report:
        """The report on a directive of the server: not carried out, but so many steps on one's own.

        They are told once. What follows is a stretch of its own, so its first directive takes a snapshot.
        """
        report = pb.Report(
            outcome=pb.OUTCOME_REPLACED,
            losses=self._losses,
            wall_time_s=self._wall_time_s,
            replacement=pb.Replacement(profile=self._stretch if self._losses else None, wasted_steps=self._wasted),
        )
        self._losses, self._wasted, self._wall_time_s = [], 0, 0.0
        self._stretch = self._open.profile
        self._open.snapshot = True
        return report

    def state_dict(self) -> dict[str, Any]:
        """The annealing as plain values."""
        return {
            "lr": self._lr,
            "remaining": self._remaining,
            "warm": self._warm,
            "rolls_back": self._rolls_back,
            "open": self._open.SerializeToString(),
            "stretch": self._stretch.SerializeToString(),
            "losses": list(self._losses),
            "wasted": self._wasted,
            "wall_time_s": self._wall_time_s,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Annealing:
        """What `state_dict` gave."""
        annealing = cls(
            state["lr"], state["remaining"], restore=False, warm=state["warm"], rolls_back=state["rolls_back"]
        )
        annealing._open = pb.Directive.FromString(state["open"])
        annealing._stretch = pb.Profile.FromString(state["stretch"])
        annealing._losses = list(state["losses"])
        annealing._wasted, annealing._wall_time_s = state["wasted"], state["wall_time_s"]
        return annealing

    def _begin(self, *, restore: bool, snapshot: bool) -> None:
        number = self._open.number + 1
        if self._remaining == 0:
            self._open = pb.Directive(number=number, phase=pb.PHASE_STOP, restore=restore, reason="the budget is spent")
            return
        n_steps = LONGEST_PART if self._remaining is None else self._remaining
        rise = rise_of_rest(self._rise_from if self._warm else 0.0, self._lr, n_steps)
        self._rise_from = None
        self._open = pb.Directive(
            number=number,
            phase=pb.PHASE_TRAIN,
            n_steps=n_steps,
            profile=profile_to_zero(self._lr, self._remaining, **rise),
            restore=restore,
            snapshot=snapshot,
            batches=pb.BATCH_SOURCE_REPLAYED,
            report_every=max(1, min(LONGEST_PART, n_steps // FEWEST_PARTS)),
            reason="on its own: annealing",
        )
        self._warm = self._warm or self._remaining is None
