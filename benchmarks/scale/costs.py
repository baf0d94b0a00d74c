"""What a search costs a run, in seconds, bytes and GPU hours. Pure arithmetic on a run and on a policy's course.

All times are those of the whole run: ranks go in step, so that what one waits for all wait for.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.scale.channel import Channel
from benchmarks.scale.course import Course, Part
from benchmarks.scale.places import Place
from benchmarks.scale.run import HugeRun

ROUNDS = 30
"""Simulated collectives of each kind, of which the median counts."""


class Waits(NamedTuple):
    """Seconds from the first rank's coming to the last one's going on.

    Attributes:
        look: A reduction of losses over the ranks.
        answer: A report, its answer, and all ranks' hearing of it.
    """

    look: float
    answer: float


def waits(run: HugeRun, seed: int = 0) -> Waits:
    """Simulated; the median of `ROUNDS`."""
    channel = Channel(run, np.random.default_rng(seed))
    looks = [float(channel.mean(channel.arrivals()).max()) for _ in range(ROUNDS)]
    answers = [float(channel.answer(channel.arrivals()).max()) for _ in range(ROUNDS)]
    return Waits(statistics.median(looks), statistics.median(answers))


@dataclass(frozen=True)
class Seconds:
    """Where time goes in a part of a run.

    Attributes:
        steps: Optimizer steps.
        validations: Validations that the tuner asks for.
        copies: Taking the snapshot and putting it back.
        looks: Reductions of losses.
        answers: Reports and their answers.
    """

    steps: float
    validations: float
    copies: float
    looks: float
    answers: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.steps + self.beside_steps

    @property
    def beside_steps(self) -> float:
        """What is no optimizer step."""
        return self.validations + self.copies + self.looks + self.answers


@dataclass(frozen=True)
class Costs:
    """A run's costs.

    Attributes:
        run: The run.
        course: What the policy asks of it.
        place: Where snapshots lie.
        waits: How long ranks wait for one another.
    """

    run: HugeRun
    course: Course
    place: Place
    waits: Waits

    @property
    def copy_s(self) -> float:
        """Seconds of taking the snapshot, or of putting it back."""
        gb, run = self.run.snapshot_bytes / 1e9, self.run
        match self.place:
            case Place.DEVICE:
                return gb / run.device_gb_s
            case Place.HOST:
                return gb / run.host_gb_s
            case _:
                return gb * run.local_ranks / run.disk_gb_s

    def _seconds(self, part: Part) -> Seconds:
        return Seconds(
            steps=part.steps * self.run.step_s,
            validations=part.validations * self.run.validation_s,
            copies=(part.snapshots + part.restores) * self.copy_s,
            looks=part.looks * self.waits.look,
            answers=part.reports * self.waits.answer,
        )

    @property
    def search(self) -> Seconds:
        """What is rolled back."""
        return self._seconds(self.course.search)

    @property
    def committed(self) -> Seconds:
        """What stays."""
        return self._seconds(self.course.committed)

    @property
    def run_s(self) -> float:
        """Seconds of the steps of the whole run: those that a run without a tuner would take."""
        return self.course.total_steps * self.run.step_s

    @property
    def search_share(self) -> float:
        """The search, as a part of the run without a tuner."""
        return self.search.total / self.run_s

    @property
    def committed_share(self) -> float:
        """What the tuner adds to committed steps, without the validations that most runs make anyway."""
        return (self.committed.beside_steps - self.committed.validations) / self.run_s

    @property
    def search_gpu_hours(self) -> float:
        """GPU hours of the search."""
        return self.search.total * self.run.ranks / 3600

    @property
    def replay_bytes(self) -> float:
        """Bytes of the batches that a rank keeps while it searches."""
        return self.course.probe_steps * self.run.replayed_bytes

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes that the tuner adds to a rank's checkpoint: the snapshot, and the average or one probe's batches."""
        return self.run.snapshot_bytes + max(self.run.average_bytes, self.replay_bytes)
