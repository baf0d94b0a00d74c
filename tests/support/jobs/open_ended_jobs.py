"""Jobs of policy open_ended, driven to a place in their lives, with changes of the plan on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Transition
from tuner_server.core.messages import Directive, Outcome, Phase, PlanChange, Report

BOUNDS = LrBounds(min=1e-4, max=1.0)
MOST = 1000
"""Reports after which a job that has not come where it was to be driven is given up."""


def config(*, has_validation: bool = False, **fields: Any) -> JobConfig:
    """A job of it without an end; keywords are fields of the config, or options of the policy."""
    own = {name: fields.pop(name) for name in ("total_steps", "total_time_s", "seed", "has_average") if name in fields}
    return JobConfig(
        policy="open_ended",
        policy_options=fields,
        lr_bounds=BOUNDS,
        base_lr=0.1,
        has_validation=has_validation,
        **own,
    )


class Life:
    """A job and its training, side by side."""

    def __init__(self, config: JobConfig, training: SimulatedTraining | None = None) -> None:
        self.training = training or SimulatedTraining(validates=config.has_validation)
        self.now: Transition = machine.create(config)
        self.directives: list[Directive] = [self.now.directive]
        self.reports: list[Report] = []

    @property
    def directive(self) -> Directive:
        """The outstanding one."""
        return self.now.directive

    def step(self, change: PlanChange | None = None) -> None:
        """One report, with a change after its steps; after the end with nothing but that."""
        if self.directive.phase is Phase.STOP:
            report = Report(directive_number=self.directive.number, outcome=Outcome.REPLANNED, losses=(), change=change)
        else:
            report = self.training.run(self.directive)
            if change is not None:
                report = report.model_copy(update={"outcome": Outcome.REPLANNED, "change": change})
        self.tell(report)

    def tell(self, report: Report) -> None:
        """Takes a report."""
        self.reports.append(report)
        self.now = machine.advance(self.now.state, report)
        self.directives.append(self.directive)

    def until(self, there: Callable[[Life], bool]) -> Life:
        """The job once it is there."""
        for _ in range(MOST):
            if there(self):
                return self
            assert self.directive.phase is not Phase.STOP, "it has ended before it came there"
            self.step()
        raise AssertionError("it never came there")

    def until_stage(self, stage: int) -> Life:
        """The job when the committed steps of a stage begin."""
        return self.until(lambda life: life.directive.stage == stage and life.directive.phase is Phase.TRAIN)

    def to_the_end(self) -> Life:
        """The job when it has ended."""
        return self.until(lambda life: life.directive.phase is Phase.STOP)

    def committed(self) -> list[Directive]:
        """The directives that commit steps, without the rests of those that were reported in parts."""
        parts = [False, *(report.outcome is Outcome.PARTIAL for report in self.reports)]
        pairs = zip(self.directives, parts, strict=True)
        return [d for d, part in pairs if d.phase is Phase.TRAIN and not part]
