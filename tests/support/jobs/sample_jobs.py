"""Jobs for the dashboard to show: as a storage would give them, or in a database."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.jobs.simulated_training import Run, SimulatedTraining, Weights
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.base.clock import utc_now
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job.life import Signs
from tuner_server.core.job.machine import JobState
from tuner_server.core.messages import Phase
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import Entry, KnownHistory, Storage, StoredJob, StoredReport
from tuner_server.storage.codec import series

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class SlowTraining(SimulatedTraining):
    """A training that is not done in a few hundred steps: what it has gained falls off as it goes on."""

    def _step(self, lr: float) -> float:
        before = self.weights.progress
        loss = super()._step(lr)
        gained = (self.weights.progress - before) / (1.0 + 6.0 * before)
        kept = self.weights
        self.weights = Weights(before + gained, kept.heat, kept.position, kept.n_lrs)
        return loss


def job_config(
    name: str, policy: str = "budget", total_steps: int | None = 4000, *, validates: bool = True, **options: object
) -> JobConfig:
    """A job whose bounds hold the simulated optimum."""
    return JobConfig(
        name=name,
        family="simulated",
        policy=policy,
        policy_options=options,
        total_steps=total_steps,
        lr_bounds=LrBounds(min=1e-4, max=1.0),
        base_lr=0.1,
        has_validation=validates,
    )


def history(run: Run) -> KnownHistory:
    """What a storage has of a run."""
    entries = KnownHistory()
    for exchange in run.exchanges:
        report = exchange.report
        stored = (
            None
            if report is None
            else StoredReport(
                outcome=report.outcome,
                n_steps=report.n_steps,
                validations=report.validations,
                wall_time_s=report.wall_time_s,
                report_time=NOW,
                losses=series(report.losses),
                replacement=report.replacement,
                note=report.note,
                measures={name: series(values) for name, values in report.measures.items()},
                ending=report.ending,
            )
        )
        entries.append(Entry(exchange.directive, exchange.decision, stored))
    return entries


def stored(state: JobState, job_id: str = "0" * 32, age_s: float = 0.0) -> StoredJob:
    """A job as a storage gives it, created `age_s` ago."""
    created = NOW - timedelta(seconds=age_s)
    return StoredJob(job_id, DEFAULT_PROJECT, state, 1, created, created, Signs(created))


def left_alone(storage: Storage, name: str, silence: timedelta, max_reports: int = 12, **changes: Any) -> str:
    """A job whose client was last heard of so long ago. Its id."""
    then = utc_now() - silence
    with TunerService(storage, lambda: then) as service:
        return run_job(service, job_config(name, **changes), SlowTraining(3, validates=True), max_reports)


def run_job(service: TunerService, config: JobConfig, training: SimulatedTraining, max_reports: int = 10_000) -> str:
    """Runs a job to its end, or for so many reports. Its id."""
    job = service.create_job(DEFAULT_PROJECT, uuid.uuid4().hex, config)
    directive = job.state.directive
    for _ in range(max_reports):
        if directive.phase is Phase.STOP:
            break
        directive = service.advance(DEFAULT_PROJECT, job.id, training.run(directive)).result()
    return job.id
