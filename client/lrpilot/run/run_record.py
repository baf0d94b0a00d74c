"""What a tuner has done so far, kept on the client: counts, and the schedule, with or without a server."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Mapping
from typing import Any

from lrpilot.schedule.from_proto import probe_from_proto
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire import schedule_file
from lrpilot.wire.directives import phase_from_proto, rolls_back
from lrpilot.wire.profile_proto import profile_from_proto, profile_to_proto
from lrpilot.wire.schedule_data import Probe, Segment, Validation


class RunRecord:
    """The books of one run. What came after the snapshot is taken back when committed steps are rolled back."""

    def __init__(self, base_lrs: list[float]) -> None:
        """Starts at step 0 of a run whose parameter groups have `base_lrs`."""
        self._base_lrs = tuple(base_lrs)
        self._segments: list[Segment] = []
        self._losses = array.array("f")  # as on the wire; a long run has millions
        self._validations: list[Validation] = []
        self._probes: list[Probe] = []
        self._mark = 0
        self.searched = 0
        """Steps that were rolled back."""
        self._taken_along = 0
        self.unsearched = False
        """Whether the run is too short for a search."""
        self.unrepeatable = ""
        """What was seen where a rollback was not complete; empty: nothing."""

    @property
    def committed(self) -> int:
        """Steps that are in the model."""
        return len(self._losses)

    @property
    def steps(self) -> int:
        """All steps that were run."""
        return self.committed + self.searched

    @property
    def tried(self) -> int:
        """Steps that were rolled back, those that others made at the same time counted too."""
        return self.searched + self._taken_along

    @property
    def last_lr(self) -> float | None:
        """The LR of the step after the last committed one, as its profile has it; None before the first."""
        if not self._segments:
            return None
        last = self._segments[-1]
        return last.profile.lr(last.n_steps)

    @property
    def peak_lr(self) -> float:
        """The highest LR of the committed steps; 0 before the first."""
        highest = (segment.profile.highest_lr(segment.n_steps) for segment in self._segments)
        return max((lr for lr in highest if lr is not None), default=0.0)

    def replacements(self) -> list[pb.Report]:
        """All that was done, as reports to a job that has not seen it: one for each stretch of committed steps."""
        reports = [
            pb.Report(
                outcome=pb.OUTCOME_REPLACED,
                losses=self._losses[segment.start_step : segment.start_step + segment.n_steps],
                replacement=pb.Replacement(profile=profile_to_proto(segment.profile)),
            )
            for segment in self._segments
        ]
        if self.searched:
            wasted = pb.Replacement(wasted_steps=self.searched)
            reports.insert(0, pb.Report(outcome=pb.OUTCOME_REPLACED, replacement=wasted))
        return reports

    @property
    def last_validation(self) -> float | None:
        """The last validation loss of the committed steps since the snapshot; None: there is none."""
        last = self._validations[-1] if self._validations else None
        return None if last is None or last.step <= self._mark else last.loss

    def mark(self) -> None:
        """The client took its snapshot here."""
        self._mark = self.committed

    def add(self, directive: pb.Directive, report: pb.Report) -> None:
        """Books a report on `directive`."""
        n_steps = len(report.losses)
        if directive.phase in (pb.PHASE_PROBE, pb.PHASE_RANGE_TEST):
            self._probes.append(probe_from_proto(directive, report, self.committed))
            if directive.taken_along:
                self._taken_along += n_steps
            else:
                self.searched += n_steps
            if report.outcome == pb.OUTCOME_UNREPEATABLE:
                self.unrepeatable = report.note
        elif rolls_back(report):
            self._take_back(n_steps)
        else:
            phase, profile = phase_from_proto(directive.phase), profile_from_proto(directive.profile)
            segment = Segment(self.committed, n_steps, profile, phase, directive.stage)
            self._validations += (Validation(self.committed + v.step, v.loss) for v in report.validations)
            self._append(segment)
            self._losses.extend(report.losses)

    def schedule(self, job_id: str, config: pb.JobConfig) -> Schedule:
        """The schedule so far, as that of a job."""
        return Schedule(
            job_id=job_id,
            name=config.name,
            policy=config.policy,
            base_lrs=self._base_lrs,
            total_steps=config.total_steps if config.HasField("total_steps") else None,
            segments=tuple(self._segments),
            losses=tuple(self._losses),
            validations=tuple(self._validations),
            probes=tuple(self._probes),
            unsearched=self.unsearched,
            unrepeatable=self.unrepeatable,
        )

    def _append(self, segment: Segment) -> None:
        last = self._segments[-1] if self._segments else None
        if last is not None and last.profile.after(last.n_steps) == segment.profile:
            self._segments[-1] = dataclasses.replace(last, n_steps=last.n_steps + segment.n_steps)
        else:
            self._segments.append(segment)

    def _take_back(self, n_steps: int) -> None:
        """Back to the mark, after `n_steps` more that are not to stay."""
        kept = self._mark
        self._segments = [
            dataclasses.replace(segment, n_steps=min(segment.n_steps, kept - segment.start_step))
            for segment in self._segments
            if segment.start_step < kept
        ]
        self.searched += self.committed + n_steps - kept
        del self._losses[kept:]
        self._validations = [v for v in self._validations if v.step <= kept]

    def state_dict(self) -> dict[str, Any]:
        """What has been done, as plain values."""
        schedule = self.schedule("", pb.JobConfig())
        return {
            "schedule": schedule_file.dumps(schedule),
            "mark": self._mark,
            "searched": self.searched,
            "taken_along": self._taken_along,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what had been done. Raises: ScheduleError."""
        schedule = schedule_file.loads(state["schedule"].encode(), Schedule)
        self._segments = list(schedule.segments)
        self._losses = array.array("f", schedule.losses)
        self._validations = list(schedule.validations)
        self._probes = list(schedule.probes)
        self._mark, self.searched, self._taken_along = state["mark"], state["searched"], state["taken_along"]
        self.unsearched, self.unrepeatable = schedule.unsearched, schedule.unrepeatable
