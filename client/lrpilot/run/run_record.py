"""What a tuner has done so far, kept on the client: counts, and the schedule, with or without a server."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Mapping
from typing import Any

from lrpilot.schedule.from_proto import ending_from_proto, probe_from_proto
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire import schedule_file
from lrpilot.wire.messages.directives import phase_from_proto, rolls_back
from lrpilot.wire.messages.measure_series import MeasureSeries
from lrpilot.wire.messages.plan_changes import kind_from_proto, origin_from_proto
from lrpilot.wire.messages.profiles import profile_from_proto
from lrpilot.wire.schedule_data import Ending, Probe, Replan, Segment, Validation


class RunRecord:
    """The books of one run. What came after the snapshot is taken back when committed steps are rolled back."""

    def __init__(self, base_lrs: list[float]) -> None:
        """Starts at step 0 of a run whose parameter groups have `base_lrs`."""
        self._base_lrs = tuple(base_lrs)
        self._segments: list[Segment] = []
        self._losses = array.array("f")  # as on the wire; a long run has millions
        self._measures = MeasureSeries()
        self._validations: list[Validation] = []
        self._probes: list[Probe] = []
        self._ending: Ending | None = None
        self._replans: list[Replan] = []
        self._mark = 0
        self.wall_time_s = 0.0
        """Seconds that the steps took."""
        self.searched = 0
        """Steps that were rolled back."""
        self._taken_along = 0
        self.unsearched = False
        """Whether there is no search."""
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

    @property
    def validations(self) -> tuple[Validation, ...]:
        """The validations of the committed steps, as they go over the wire."""
        return tuple(self._validations)

    @property
    def last_validation(self) -> float | None:
        """The last validation loss of the committed steps since the snapshot; None: there is none."""
        last = self._validations[-1] if self._validations else None
        return None if last is None or last.step <= self._mark else last.loss

    def mark(self) -> None:
        """The client took its snapshot here."""
        self._mark = self.committed

    def replan(self, change: pb.PlanChange, total_steps: int | None) -> None:
        """Books a change of the plan, by which the run has so many steps; None: no end is known."""
        kind, origin = kind_from_proto(change.kind), origin_from_proto(change.origin)
        self._replans.append(Replan(self.committed, kind, origin, total_steps, change.reason))

    def add(self, directive: pb.Directive, report: pb.Report) -> None:
        """Books a report on `directive`."""
        n_steps = len(report.losses)
        self.wall_time_s += report.wall_time_s
        searches = directive.phase in (pb.PHASE_PROBE, pb.PHASE_RANGE_TEST)
        if searches and report.outcome != pb.OUTCOME_REPLANNED:
            self._probes.append(probe_from_proto(directive, report, self.committed))
            if directive.taken_along:
                self._taken_along += n_steps
            else:
                self.searched += n_steps
            if report.outcome == pb.OUTCOME_UNREPEATABLE:
                self.unrepeatable = report.note
        elif rolls_back(report):
            self._take_back(n_steps)
        elif n_steps:
            phase, profile = phase_from_proto(directive.phase), profile_from_proto(directive.profile)
            segment = Segment(self.committed, n_steps, profile, phase, directive.stage)
            self._validations += (Validation(self.committed + v.step, v.loss) for v in report.validations)
            self._append(segment)
            self._ending = ending_from_proto(report.ending) if report.HasField("ending") else None
            self._losses.extend(report.losses)
            self._measures.add(n_steps, ((measure.name, measure.values) for measure in report.measures))

    def schedule(self, job_id: str, config: pb.JobConfig, total_steps: int | None) -> Schedule:
        """The schedule so far, as that of a job whose run ends after so many steps; None: no end is known."""
        found = Schedule(
            job_id=job_id,
            name=config.name,
            policy=config.policy,
            base_lrs=self._base_lrs,
            total_steps=total_steps,
            segments=tuple(self._segments),
            losses=tuple(self._losses),
            validations=tuple(self._validations),
            probes=tuple(self._probes),
            unsearched=self.unsearched,
            unrepeatable=self.unrepeatable,
            ending=self._ending,
            replans=tuple(self._replans),
            measures=self._measures.measured(),
        )
        return found.turned() if config.maximises else found

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
        self._measures.cut(kept)
        self._validations = [v for v in self._validations if v.step <= kept]
        self._replans = [dataclasses.replace(each, step=min(each.step, kept)) for each in self._replans]

    def state_dict(self) -> dict[str, Any]:
        """What has been done, as plain values."""
        schedule = self.schedule("", pb.JobConfig(), None)
        return {
            "schedule": schedule_file.dumps(schedule),
            "mark": self._mark,
            "searched": self.searched,
            "taken_along": self._taken_along,
            "wall_time_s": self.wall_time_s,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what had been done. Raises: ScheduleError."""
        schedule = schedule_file.loads(state["schedule"].encode(), Schedule)
        self._base_lrs = schedule.base_lrs
        self._segments = list(schedule.segments)
        self._losses = array.array("f", schedule.losses)
        self._measures = MeasureSeries(schedule.measures, len(schedule.losses))
        self._validations = list(schedule.validations)
        self._probes, self._ending = list(schedule.probes), schedule.ending
        self._replans = list(schedule.replans)
        self._mark, self.searched, self._taken_along = state["mark"], state["searched"], state["taken_along"]
        self.wall_time_s = state["wall_time_s"]
        self.unsearched, self.unrepeatable = schedule.unsearched, schedule.unrepeatable
