"""Probes of real searches with all that early warnings look at, and how each of them ended.

The searches are those of policy `budget`, and no probe ends by a warning. A probe is *sound* that ended below the loss
that it began with, *lost* if it ended no lower, and *diverged* if its losses did.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from lrpilot import Tuner
from lrpilot.run.lease import Lease
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.early_warning import EarlyWarning
from lrpilot.wire.messages.profiles import profile_to_proto
from lrpilot.wire.profile import Profile

from benchmarks.quality.local import LocalTransport
from benchmarks.quality.training import update
from benchmarks.quality.workloads import WORKLOADS
from tuner_server.core.policies import POLICIES
from tuner_server.core.policies.budget import Budget
from tuner_server.core.stages.early_warning import EarlyWarningName, early_warnings
from tuner_server.core.stages.probe import ProbePlan

SOUND, LOST, DIVERGED = "sound", "lost", "diverged"
LONG_RUN = 200_000
"""Steps of the run that a search is for: as none is made after it, so many that probes of any length are affordable."""


class Recorded(Budget):
    """The policy `budget`, whose probes measure all that warnings look at, and end by none."""

    name: ClassVar[str] = "budget, recorded"

    def check(self) -> None:
        """Refuses what `budget` refuses."""

    def _probes_of(self, n: int, *, apart: bool) -> ProbePlan:
        able = [
            warning for warning in early_warnings(list(EarlyWarningName)) if warning.measure in self.config.measures
        ]
        told = tuple(dataclasses.replace(warning, ends=False) for warning in able)
        return dataclasses.replace(super()._probes_of(n, apart=apart), warnings=told)


@dataclasses.dataclass(frozen=True)
class Probe:
    """One probe of a search.

    Attributes:
        workload: What is trained.
        version: The workload's.
        seed: The run's.
        range_factor: How much higher the range lies than the workload's.
        n_steps: Steps that it was to have.
        warmup: Those of its warm-up.
        lr: Its peak.
        outcome: SOUND, LOST or DIVERGED.
        gained: The part of what the best probe of its search gained that it gained, too; 0 where it diverged.
        measures: What was measured, one value a step, by name; None where a step has none.
    """

    workload: str
    version: int
    seed: int
    range_factor: float
    n_steps: int
    warmup: int
    lr: float
    outcome: str
    gained: float
    measures: Mapping[str, Sequence[float | None]]

    @property
    def n_run(self) -> int:
        """Steps that were run."""
        return max(map(len, self.measures.values()), default=0)

    def ended_by(self, warning: EarlyWarning) -> int | None:
        """After how many steps a warning would have ended it; None: it would not have, or no earlier than it ended."""
        values = [math.nan if value is None else value for value in self.measures.get(warning.measure, ())]
        step = warning.first(values, self.warmup, self.n_steps)
        if step is None:
            return None
        looked = self._lease.looked_after(step + 1)
        return looked if looked < self.n_run else None

    @property
    def _lease(self) -> Lease:
        profile = profile_to_proto(Profile.constant(self.lr, self.n_steps))
        return Lease(pb.Directive(phase=pb.PHASE_PROBE, n_steps=self.n_steps, profile=profile))


class Recorder(LocalTransport):
    """Keeps the probes of a job: each directive with its report."""

    def __init__(self) -> None:
        """None was made yet."""
        super().__init__()
        self.probes: list[tuple[pb.Directive, pb.Report]] = []
        self._directive = pb.Directive()

    def create_job(self, request: pb.CreateJobRequest, timeout_s: float) -> pb.CreateJobResponse:
        response = super().create_job(request, timeout_s)
        self._directive = response.directive
        return response

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        self.probes.append((self._directive, request.report))
        response = super().advance(request, timeout_s)
        self._directive = response.directive
        return response


def search(workload: str, seed: int, range_factor: float, probe_steps: int) -> list[Probe]:
    """The probes of one search."""
    POLICIES[Recorded.name] = Recorded
    session = WORKLOADS[workload].build(seed)
    torch.manual_seed(seed)
    transport = Recorder()
    low, high = WORKLOADS[workload].lr_range
    tuner = Tuner(
        session.model,
        session.optimizer,
        transport=transport,
        total_steps=LONG_RUN,
        lr_bounds=(low * range_factor, high * range_factor),
        policy=Recorded.name,
        policy_options={"probe_steps": probe_steps},
        validate=session.validate,
        seed=seed,
        logits=session.model,
    )
    for batch in tuner.batches(session.batches()):
        if transport.state.lease.phase.committed:
            break
        tuner.step(update(session, batch))
    start = transport.probes[0][1].validations[0].loss
    ends = [_end(report) for _, report in transport.probes]
    best_gain = max(start - min(ends), 0.0)
    return [
        _probe(workload, seed, range_factor, told, start - end, best_gain)
        for told, end in zip(transport.probes, ends, strict=True)
    ]


def _end(report: pb.Report) -> float:
    """The validation after a probe; infinite where it diverged."""
    return report.validations[-1].loss if report.outcome == pb.OUTCOME_COMPLETED else math.inf


def _probe(
    workload: str,
    seed: int,
    range_factor: float,
    told: tuple[pb.Directive, pb.Report],
    gain: float,
    best_gain: float,
) -> Probe:
    directive, report = told
    outcome = SOUND if gain > 0 else LOST if math.isfinite(gain) else DIVERGED
    measures: dict[str, Sequence[float]] = {measure.name: measure.values for measure in report.measures}
    return Probe(
        workload=workload,
        version=WORKLOADS[workload].version,
        seed=seed,
        range_factor=range_factor,
        n_steps=directive.n_steps,
        warmup=directive.profile.warmup,
        lr=directive.profile.start_lr,
        outcome=outcome,
        gained=max(gain / best_gain, 0.0) if best_gain > 0 and math.isfinite(gain) else 0.0,
        measures={name: [v if math.isfinite(v) else None for v in values] for name, values in measures.items()},
    )
