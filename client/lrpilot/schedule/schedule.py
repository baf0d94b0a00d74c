"""The schedule that was found for a job, as users have it: to save, load, plot and replay.

It needs nothing but the standard library. PyTorch is imported to replay it, Matplotlib to plot it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from lrpilot.arguments import file_path, real, shown, whole
from lrpilot.errors import ScheduleError
from lrpilot.schedule.output_file import output_file
from lrpilot.wire.bounded_file import read_whole
from lrpilot.wire.limits import MAX_STEPS
from lrpilot.wire.schedule_data import ScheduleData
from lrpilot.wire.text.job_names import called
from lrpilot.wire.text.plain_text import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from lrpilot.v1 import tuner_pb2


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Schedule(ScheduleData):
    """LRs of the committed steps, with the evidence."""

    def __repr__(self) -> str:
        """What a person wants to know; the numbers are in `save` and `plot`."""
        given = called(self.name, self.job_id)
        name = f" {given!r}" if given else ""
        peaks = [segment.profile.highest_lr(segment.n_steps) or 0.0 for segment in self.segments]
        probes = ", no search" if self.unsearched else f", {len(self.probes)} probes" if self.probes else ""
        steps = f"{self.n_steps:,} steps{f', LR up to {max(peaks):.3g}' if peaks else ''}{probes}"
        job, policy = plain(self.job_id[:8]) or "of no server", plain(self.policy) or "no policy"
        return f"<Schedule{name}: job {job}, {policy}, {steps}>"

    def scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """A PyTorch scheduler that replays this schedule with no server.

        The other parameter groups keep the ratios that their LRs have to the first group's. Call its `step` after every
        `optimizer.step`.

        Raises:
            ScheduleError: the schedule has no steps, or the first group's LR is zero.
        """
        from lrpilot.schedule.torch_scheduler import ReplayScheduler

        return ReplayScheduler(optimizer, self)

    def stretched(self, total_steps: int, *, length_exponent: float = 0.0) -> Schedule:
        """This schedule for a run of another length: every part keeps its share of the steps.

        What was seen in the run (losses, validations, probes) is left out.

        Args:
            total_steps: the steps of the other run, which has no search.
            length_exponent: how fast the best LR falls with length: all LRs are multiplied by (steps of this one /
                steps of the other)^this. 0: they stay; policy `budget` corrects with 0.2.

        Raises:
            ScheduleError: the schedule has no steps, or a number is out of its range.
        """
        from lrpilot.schedule.stretching import stretched

        wanted, error = "a number from 0 to 1, as 0.2", ScheduleError
        exponent = real("length_exponent", length_exponent, wanted, error=error)
        if not 0 <= exponent <= 1:
            raise ScheduleError(f"length_exponent: {shown(length_exponent)}; give {wanted}")
        n_steps = whole("total_steps", total_steps, "a whole number of steps, as 10_000", high=MAX_STEPS, error=error)
        return stretched(self, n_steps, (self.n_steps / n_steps) ** exponent)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from lrpilot.schedule.notebook import schedule_html

        return schedule_html(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws LRs and losses over committed steps, and the probes apart.

        Args:
            path: the file to write; its ending says the format, such as .png or .svg. None: none is written.

        Returns:
            The figure, which a notebook shows. It is none of pyplot's, and needs no closing.

        Raises:
            ScheduleError: Matplotlib is not installed, or does not know the ending.
        """
        from lrpilot.schedule.plot import plot

        return plot(self, None if path is None else file_path(path, error=ScheduleError))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a JSON file, in one go: a reader sees the old file or the new one. Floats are exact.

        A link stays, and leads to the new file; a device or a pipe is written to as it is.

        Raises:
            ScheduleError: the path is none.
            OSError: the file can't be written.
        """
        from lrpilot.wire.schedule_file import chunks

        with output_file(file_path(path, error=ScheduleError)) as file:
            file.writelines(chunk.encode() for chunk in chunks(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schedule:
        """Reads what `save` wrote.

        Raises:
            ScheduleError: the file is no schedule, or one of a newer format; the message says so.
            OSError: the file can't be read, or has more than `LARGEST_BYTES`.
        """
        from lrpilot.wire.schedule_file import LARGEST_BYTES, loads

        file = file_path(path, error=ScheduleError)
        try:
            return loads(read_whole(file, LARGEST_BYTES), cls)
        except ScheduleError as error:
            raise ScheduleError(f"{file}: {error}") from None

    @classmethod
    def from_response(cls, response: tuner_pb2.GetScheduleResponse, base_lrs: tuple[float, ...] = ()) -> Schedule:
        """The schedule of a job, as the server sends it.

        Args:
            response: with its history if losses and probes are wanted (SCHEDULE_VIEW_FULL).
            base_lrs: LRs of all groups; the server knows the first group's only, which is the default.

        Raises:
            ScheduleError: the response makes no schedule.
        """
        from lrpilot.schedule.from_proto import schedule_from_proto

        return schedule_from_proto(response, cls, base_lrs)
