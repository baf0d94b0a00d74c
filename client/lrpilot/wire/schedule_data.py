"""The data of a schedule: what LR every committed step ran at, and how it was found."""

from __future__ import annotations

import bisect
import dataclasses
import operator
from collections.abc import Sequence
from typing import Self

from lrpilot.errors import ScheduleError
from lrpilot.wire.phase import Phase
from lrpilot.wire.plan_change import ChangeKind, ChangeOrigin
from lrpilot.wire.profile import Profile
from lrpilot.wire.weights import Weights


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Committed steps [start_step, start_step + n_steps) at the LRs of one profile.

    Attributes:
        start_step: committed steps before the first one.
        n_steps: at least 1.
        profile: the LRs.
        phase: what the steps are for.
        stage: counts from 1; 0 before the first, and without a server.
    """

    start_step: int
    n_steps: int
    profile: Profile
    phase: Phase
    stage: int


@dataclasses.dataclass(frozen=True, slots=True)
class Validation:
    """A validation loss, or a metric.

    Attributes:
        step: after so many committed steps; within a probe, after so many steps of it.
        loss: what `validate` gave.
    """

    step: int
    loss: float

    def turned(self) -> Validation:
        """This validation with the other sign."""
        return Validation(self.step, -self.loss)


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What was measured at the committed steps besides the loss.

    Attributes:
        name: of the measure.
        values: of the committed steps from 0 on, NaN where a step has none; may end before the last.
    """

    name: str
    values: Sequence[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """Search steps, which were rolled back.

    Attributes:
        start_step: the committed steps of the weights that it began with.
        n_steps: how many were run.
        profile: the LRs.
        phase: what the steps are for.
        stage: counts from 1; 0 before the first.
        losses: of every step.
        validations: in the probe, ascending.
        diverged: whether a loss was not finite, or too high.
    """

    start_step: int
    n_steps: int
    profile: Profile
    phase: Phase
    stage: int
    losses: Sequence[float]
    validations: tuple[Validation, ...]
    diverged: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """What came of an average of the weights, at the end of the committed steps that it was kept over.

    Attributes:
        adopted: the weights that the model was left with.
        memory_steps: how many steps the average remembered.
        last: what `validate` gave of the last weights; None: nothing.
        average: what it gave of the average; None: nothing.
    """

    adopted: Weights
    memory_steps: float
    last: float | None = None
    average: float | None = None

    def turned(self) -> Ending:
        """This ending with validations of the other sign."""
        last, average = (None if value is None else -value for value in (self.last, self.average))
        return dataclasses.replace(self, last=last, average=average)

    @property
    def words(self) -> str:
        """The weights that the model was left with, and the validation losses, without a full stop."""
        averaged = f"the average of the last {self.memory_steps:,.0f} steps"
        if self.average is None:
            return "the last weights" if self.adopted is Weights.LAST else averaged
        mean, last = f"{self.average:.4g}", "none" if self.last is None else f"{self.last:.4g}"
        if self.adopted is Weights.LAST:
            return f"the last weights: {last} against {mean} for {averaged}"
        return f"{averaged}: {mean} against {last}"


@dataclasses.dataclass(frozen=True, slots=True)
class Replan:
    """A change of the plan of a run.

    Attributes:
        step: committed steps before it.
        kind: what changed.
        origin: who asked for it.
        total_steps: the optimizer steps of the run from then on, search included; None: no end was known.
        reason: why, for people.
    """

    step: int
    kind: ChangeKind
    origin: ChangeOrigin
    total_steps: int | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ScheduleData:
    """LRs of the committed steps, with the evidence.

    Attributes:
        job_id: the job's name on its server.
        name: the user's name for the job.
        policy: what decided.
        base_lrs: LRs of the parameter groups as the user set them, the first group's first.
        total_steps: the optimizer steps of the run as it was planned at last, search included; None: no end was known.
        segments: cover the committed steps from 0 on with no gap.
        losses: of the committed steps from 0 on; may end before the last, or be empty.
        validations: of the committed steps, ascending.
        probes: the searches, oldest first. Committed steps that were rolled back are not among them.
        unsearched: whether there was no search: the run was too short for one, or its policy tries no LRs.
        unrepeatable: what was seen where a rollback was not complete, after which there was no search and the LR was
            the one that was set; empty: nothing.
        ending: what came of an average of the weights, where the run ended with one. A replay has the LRs alone.
        replans: the changes of the plan, oldest first.
        measures: what was measured at the committed steps besides the loss, by name.
        mode: "max" where validations are of a metric that is the better the higher, such as an accuracy; else "min".
    """

    job_id: str
    name: str
    policy: str
    base_lrs: tuple[float, ...]
    total_steps: int | None
    segments: tuple[Segment, ...]
    losses: Sequence[float] = ()
    validations: tuple[Validation, ...] = ()
    probes: tuple[Probe, ...] = ()
    unsearched: bool = False
    unrepeatable: str = ""
    ending: Ending | None = None
    replans: tuple[Replan, ...] = ()
    measures: tuple[Measured, ...] = ()
    mode: str = "min"

    def __post_init__(self) -> None:
        """Refuses a schedule with a gap.

        Raises:
            ScheduleError: the segments don't follow one another from step 0 on, there are more losses than steps, or
                more values of a measure.
        """
        end = 0
        for segment in self.segments:
            if segment.start_step != end or segment.n_steps < 1:
                raise ScheduleError(
                    f"schedule: a segment of {segment.n_steps} steps starts at {segment.start_step}, after {end} steps"
                )
            end += segment.n_steps
        if len(self.losses) > end:
            raise ScheduleError(f"schedule: {len(self.losses)} losses for {end} steps")
        for measure in self.measures:
            if len(measure.values) > end:
                raise ScheduleError(f"schedule: {len(measure.values)} values of {measure.name} for {end} steps")

    @property
    def n_steps(self) -> int:
        """Committed steps."""
        return self.segments[-1].start_step + self.segments[-1].n_steps if self.segments else 0

    def turned(self) -> Self:
        """This schedule with validations of the other sign: as they go over the wire, or as `validate` gave them."""
        return dataclasses.replace(
            self,
            mode="min" if self.mode == "max" else "max",
            validations=tuple(each.turned() for each in self.validations),
            probes=tuple(
                dataclasses.replace(probe, validations=tuple(each.turned() for each in probe.validations))
                for probe in self.probes
            ),
            ending=None if self.ending is None else self.ending.turned(),
        )

    def measured(self, name: str) -> Sequence[float]:
        """The values of a measure at the committed steps from 0 on; empty: it was not taken."""
        return next((measure.values for measure in self.measures if measure.name == name), ())

    def lrs(self) -> list[float]:
        """The LR of every committed step. Raises: ScheduleError: the schedule has no steps."""
        if not self.segments:
            raise ScheduleError("schedule: it has no steps")
        return [segment.profile.lr(step) for segment in self.segments for step in range(segment.n_steps)]

    def lr(self, step: int) -> float:
        """The LR of the first parameter group at a committed step, the same bit for bit as it was applied.

        Past the end the last LR holds.

        Raises:
            ScheduleError: there are no committed steps, or `step` is negative.
        """
        try:
            step = operator.index(step)
        except TypeError:
            raise ScheduleError(f"step: {step!r} ({type(step).__name__}); give a whole number from 0 on") from None
        if step < 0 or not self.segments:
            raise ScheduleError(f"schedule: no LR for step {step} of {self.n_steps}")
        step = min(step, self.n_steps - 1)
        after = bisect.bisect_right(self.segments, step, key=lambda segment: segment.start_step)
        segment = self.segments[after - 1]
        return segment.profile.lr(step - segment.start_step)
