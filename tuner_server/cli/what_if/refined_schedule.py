"""A schedule refined from the gradient norms of the run that it is of, and a picture of what came of it. Pure.

The paper takes the norms of the whole run, and has the peak LR tuned anew (Defazio et al. 2023, arXiv 2310.07831). Here
the peak stays, so the warm-up stays too, unless it is asked for otherwise: at the first steps of a run, at hardly any
LR, norms may be so small that the refined LR is highest there and low ever after (docs/methods/refinement.md).
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from lrpilot.errors import ScheduleError
from lrpilot.schedule.plot import save, write_title
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire.phase import Phase
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Segment

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.laws import refinement
from tuner_server.core.laws.optimizer_kind import OptimizerKind

MOST_KNOTS = 400
"""Points of a refined shape: two in three of those that a shape may have."""
MOST_MISSING = 0.05
"""The part of a run's steps whose norms may be missing at its end."""
POLICY = "refined afterwards"
"""What a refined schedule says that it was decided by."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refinement:
    """What a schedule is refined from.

    Attributes:
        schedule: the one that the run had.
        kind: of the run's optimizer.
        norms: of the committed steps.
        warmup: the committed steps at the start in which the LR rose, whose norms don't count; they rise again.
    """

    schedule: Schedule
    kind: OptimizerKind
    norms: tuple[float, ...]
    warmup: int

    def refined(self, n_steps: int | None = None) -> Schedule:
        """The refined schedule, of as many steps as the run has, or of `n_steps`, with the same peak."""
        old = self.schedule
        n_steps = old.n_steps if n_steps is None else n_steps
        warmup = min(round(self.warmup * n_steps / old.n_steps), n_steps - 1)
        shape = refinement.refined(self.norms[self.warmup :], self.kind)
        knots = refinement.knots(shape, MOST_KNOTS)
        profile = Profile(Shape.points(knots), peak_lr(old), 0.0, n_steps, warmup=warmup)
        return Schedule(
            job_id=old.job_id,
            name=old.name,
            policy=POLICY,
            base_lrs=old.base_lrs,
            total_steps=n_steps,
            segments=(Segment(0, n_steps, profile, Phase.TRAIN, 1),),
        )


def peak_lr(schedule: Schedule) -> float:
    """The highest LR of the committed steps."""
    return max(segment.profile.highest_lr(segment.n_steps) or 0.0 for segment in schedule.segments)


def refinement_of(schedule: Schedule, kind: OptimizerKind | None, *, whole: bool) -> Refinement:
    """What a schedule is refined from.

    Args:
        schedule: of a run that has ended, with its measures.
        kind: of the run's optimizer; None: as the norms say that were recorded.
        whole: whether the norms of the warm-up count too, and it is made anew.

    Raises:
        InvalidInputError: the norms are not there, or the run has not ended.
    """
    kinds = [OptimizerKind.ADAM, OptimizerKind.SGD] if kind is None else [kind]
    recorded = next((each for each in kinds if schedule.measured(each.measure)), None)
    if recorded is None:
        names = " or ".join(each.measure for each in reversed(kinds))
        example = ", ".join(f'"{each.measure}"' for each in reversed(kinds))
        raise InvalidInputError.of(
            "job", f"its committed steps have no {names}; record it: Tuner(..., record=({example},))"
        )
    norms = schedule.measured(recorded.measure)
    last = schedule.segments[-1]
    planned = max(last.start_step + last.profile.length - last.profile.offset, schedule.n_steps)
    known = planned if not last.profile.shape.way.moves else len(norms)
    if known < (1 - MOST_MISSING) * planned:
        raise InvalidInputError.of(
            "job", f"{recorded.measure} is there for {known} of {planned} committed steps; refine it when it has ended"
        )
    return Refinement(schedule, recorded, tuple(norms), 0 if whole else _warmup(schedule))


def _warmup(schedule: Schedule) -> int:
    """The committed steps at the start in which the LR rises."""

    def rising(segment: Segment) -> int:
        if segment.phase is Phase.WARM_UP:
            return segment.n_steps
        return min(max(segment.profile.warmup - segment.profile.offset, 0), segment.n_steps)

    return sum(rising(each) for each in itertools.takewhile(rising, schedule.segments))


def draw(found: Refinement, refined: Schedule, title: str, path: Path) -> None:
    """Draws norms, raw and smoothed, and both schedules, over committed steps, under a title.

    Raises:
        ScheduleError: Matplotlib does not know the ending of the file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    write_title(figure.suptitle(""), title)
    norm_axes, lr_axes = figure.subplots(2, 1, sharex=True)
    norm_axes.plot(range(len(found.norms)), found.norms, color="#a0a0a0", linewidth=0.6, label=found.kind.measure)
    counted = refinement.completed(found.norms[found.warmup :])
    if counted is not None:
        smooth = refinement.smoothed(refinement.for_smoothing(counted))
        norm_axes.plot(
            np.linspace(found.warmup, len(found.norms) - 1, len(smooth)), smooth, color="#1b7f4d", label="smoothed"
        )
    norm_axes.set_yscale("log", nonpositive="mask")
    norm_axes.set_ylabel("gradient norm")
    for schedule, color, label in ((found.schedule, "#1f5fa8", "before"), (refined, "#d9822b", "refined")):
        lr_axes.plot(range(schedule.n_steps), schedule.lrs(), color=color, label=label)
    lr_axes.set_ylabel("learning rate")
    lr_axes.set_xlabel("committed step")
    for axes in (norm_axes, lr_axes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    try:
        save(figure, path)
    except ValueError as error:
        raise ScheduleError(f"plot: {error}") from error
