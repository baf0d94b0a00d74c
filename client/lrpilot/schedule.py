"""The schedule that was found for a job: what LR every committed step ran at, and how it was found.

It needs nothing but the standard library. PyTorch is imported to replay it, Matplotlib to plot it.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lrpilot.errors import ScheduleError
from lrpilot.profile import Profile

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from lrpilot.v1 import tuner_pb2


class Phase(enum.StrEnum):
    """What steps are for; see `Phase` of the wire contract."""

    WARM_UP = "warm_up"
    RANGE_TEST = "range_test"
    PROBE = "probe"
    TRAIN = "train"


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Committed steps [start_step, start_step + n_steps) at the LRs of one profile.

    Attributes:
        start_step: committed steps before the first one.
        n_steps: at least 1.
        profile: the LRs.
        phase: what the steps are for.
        stage: counts from 0; -1 before the first, and without a server.
    """

    start_step: int
    n_steps: int
    profile: Profile
    phase: Phase
    stage: int


@dataclasses.dataclass(frozen=True, slots=True)
class Validation:
    """A validation loss.

    Attributes:
        step: after so many committed steps; within a probe, after so many steps of it.
        loss: what `validate` gave.
    """

    step: int
    loss: float


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """Search steps, which were rolled back.

    Attributes:
        start_step: the committed steps of the weights that it began with.
        n_steps: how many were run.
        profile: the LRs.
        phase: what the steps are for.
        stage: counts from 0; -1 before the first.
        losses: of every step.
        validations: in the probe, ascending.
        diverged: whether a loss was not finite, or too high.
    """

    start_step: int
    n_steps: int
    profile: Profile
    phase: Phase
    stage: int
    losses: tuple[float, ...]
    validations: tuple[Validation, ...]
    diverged: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """LRs of the committed steps, with the evidence.

    Attributes:
        job_id: the job's name on its server.
        name: the user's name for the job.
        policy: what decided.
        base_lrs: LRs of the parameter groups as the user set them, the first group's first.
        total_steps: the optimizer steps that were promised, search included; None: no end was given.
        segments: cover the committed steps from 0 on with no gap.
        losses: of the committed steps from 0 on; may end before the last, or be empty.
        validations: of the committed steps, ascending.
        probes: the searches, oldest first. Committed steps that were rolled back are not among them.
        unsearched: whether the run was too short for a search, so that it had the LR that was set.
        unrepeatable: what was seen where a rollback was not complete, after which there was no search and the LR was
            the one that was set; empty: nothing.
    """

    job_id: str
    name: str
    policy: str
    base_lrs: tuple[float, ...]
    total_steps: int | None
    segments: tuple[Segment, ...]
    losses: tuple[float, ...] = ()
    validations: tuple[Validation, ...] = ()
    probes: tuple[Probe, ...] = ()
    unsearched: bool = False
    unrepeatable: str = ""

    def __post_init__(self) -> None:
        """Refuses a schedule with a gap.

        Raises:
            ScheduleError: the segments don't follow one another from step 0 on, or there are more losses than steps.
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

    @property
    def n_steps(self) -> int:
        """Committed steps."""
        return self.segments[-1].start_step + self.segments[-1].n_steps if self.segments else 0

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
        if step < 0 or not self.segments:
            raise ScheduleError(f"schedule: no LR for step {step} of {self.n_steps}")
        step = min(step, self.n_steps - 1)
        after = bisect.bisect_right(self.segments, step, key=lambda segment: segment.start_step)
        segment = self.segments[after - 1]
        return segment.profile.lr(step - segment.start_step)

    def scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """A PyTorch scheduler that replays this schedule with no server.

        The other parameter groups keep the ratios that their LRs have to the first group's. Call its `step` after every
        `optimizer.step`.

        Raises:
            ScheduleError: the schedule has no steps, or the first group's LR is zero.
        """
        from lrpilot.replay_scheduler import ReplayScheduler

        return ReplayScheduler(optimizer, self)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from lrpilot.notebook import schedule_html

        return schedule_html(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws LRs and losses over committed steps, and the probes apart.

        Args:
            path: the file; its ending says the format, such as .png or .svg.

        Raises:
            ScheduleError: Matplotlib is not installed, or does not know the ending.
        """
        from lrpilot.schedule_plot import plot

        plot(self, Path(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a JSON file, in one go: a reader sees the old file or the new one. Floats are exact."""
        from lrpilot.schedule_json import dumps

        path = Path(path)
        # Beside the file, because a rename is atomic only within a file system.
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(dumps(self))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Reads what `save` wrote.

        Raises:
            ScheduleError: the file is no schedule, or one of a newer format; the message says so.
            OSError: the file can't be read.
        """
        from lrpilot.schedule_json import loads

        try:
            return loads(Path(path).read_bytes())
        except ScheduleError as error:
            raise ScheduleError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def from_response(cls, response: tuner_pb2.GetScheduleResponse, base_lrs: tuple[float, ...] = ()) -> Schedule:
        """The schedule of a job, as the server sends it.

        Args:
            response: with its history if losses and probes are wanted (SCHEDULE_VIEW_FULL).
            base_lrs: LRs of all groups; the server knows the first group's only, which is the default.

        Raises:
            ScheduleError: the response makes no schedule.
        """
        from lrpilot.convert import schedule_from_proto

        return schedule_from_proto(response, base_lrs)
