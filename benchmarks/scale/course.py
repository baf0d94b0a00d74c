"""What policy `budget` asks of a run: its probes, reports and looks, from the policy itself.

The job's state machine is driven by a training that is a few lines of arithmetic, and a client's own count of steps
(`Lease`) says when losses are reduced over the ranks. So nothing here knows how the policy works.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from lrpilot.distributed.backend import STEPS_BETWEEN_LOOKS
from lrpilot.run.lease import Event, Lease
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.directives import committed

from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.messages import Report
from tuner_server.rpc.convert import directive_to_pb

BOUNDS = LrBounds(min=1e-3, max=1.0)
BEST_LRS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Where the best LR of a probe may lie: a search takes more probes if it is far from the middle of the range."""
BASE_LR = 0.03
EDGE = 30.0
"""Times the best LR above which losses grow until they are no numbers."""


class Part(NamedTuple):
    """What a search, or the steps that are committed, ask of every rank.

    Attributes:
        directives: How many there are.
        steps: Optimizer steps.
        looks: How often losses are reduced over the ranks.
        validations: How often the run validates.
        snapshots: How often one is taken.
        restores: How often it is put back.
        reports: Reports, each with an answer that all ranks hear.
        bytes_up: Bytes of the reports.
        bytes_down: Bytes of the answers.
    """

    directives: int
    steps: int
    looks: int
    validations: int
    snapshots: int
    restores: int
    reports: int
    bytes_up: int
    bytes_down: int

    def __add__(self, other: object) -> Part:
        """Both one after the other."""
        if not isinstance(other, Part):
            return NotImplemented
        return Part(*map(sum, zip(self, other, strict=True)))


_NOTHING = Part(0, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Course:
    """A job from its first directive to its end.

    Attributes:
        total_steps: What the job was opened with.
        search: All that is rolled back.
        committed: All that stays.
        probe_steps: Steps of the longest probe.
    """

    total_steps: int
    search: Part
    committed: Part
    probe_steps: int

    @property
    def whole(self) -> Part:
        """Search and committed steps together."""
        return self.search + self.committed


@cache
def longest(total_steps: int, *, bounded: bool = True, validates: bool = True) -> Course:
    """The course with the longest search, over where the best LR may lie."""
    courses = (course(total_steps, lr, bounded=bounded, validates=validates) for lr in BEST_LRS)
    return max(courses, key=lambda one: one.search.steps)


def course(total_steps: int, best_lr: float, *, bounded: bool, validates: bool) -> Course:
    """The course of a job of so many steps."""
    job = JobConfig(
        policy="budget",
        total_steps=total_steps,
        lr_bounds=BOUNDS if bounded else None,
        base_lr=BASE_LR,
        has_validation=validates,
    )
    # Without noise: what is counted is no matter of luck, and no committed steps fall short of what was promised.
    training = SimulatedTraining(best_lr=best_lr, edge_lr=EDGE * best_lr, noise=0.0, validates=validates)
    parts, longest_probe = {True: _NOTHING, False: _NOTHING}, 0
    for exchange in drive(job, training).exchanges:
        directive = directive_to_pb(exchange.directive)
        part = _part(directive, exchange.report)
        parts[committed(directive)] += part
        if not committed(directive):
            longest_probe = max(longest_probe, part.steps)
    return Course(total_steps, parts[False], parts[True], longest_probe)


def _part(directive: pb.Directive, report: Report | None) -> Part:
    """One directive, or the next part of it that is reported on; without a report it is the end."""
    restores = int(directive.restore)
    if report is None:
        return Part(0, 0, 0, 0, 0, restores, 0, 0, directive.ByteSize())
    told = pb.Report(directive_number=directive.number, losses=report.losses)
    for validation in report.validations:
        told.validations.add(**validation.model_dump())
    return Part(
        directives=1,
        steps=len(report.losses),
        looks=_looks(directive),
        validations=len(report.validations),
        snapshots=int(directive.snapshot),
        restores=restores,
        reports=1,
        bytes_up=told.ByteSize(),
        bytes_down=directive.ByteSize(),
    )


def _looks(directive: pb.Directive) -> int:
    """How often the client looks for divergence before it reports."""
    lease, looks = Lease(directive, steps_between_looks=STEPS_BETWEEN_LOOKS), 0
    while True:
        lease.done = lease.next_event
        event = lease.event()
        looks += Event.CHECK in event
        if Event.END in event or Event.PART in event:
            return looks
