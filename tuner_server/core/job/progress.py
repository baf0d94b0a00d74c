"""What a policy is told of where its job is. Pure."""

from __future__ import annotations

from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job.state import JobState
from tuner_server.core.policies.base import Progress
from tuner_server.core.search.prior import Prior


def progress_at_start(config: JobConfig, prior: Prior | None, bounds: LrBounds) -> Progress:
    """Where a job is whose policy starts with the first directive."""
    return Progress(
        committed_steps=0,
        search_steps=0,
        remaining_steps=config.total_steps,
        bounds=bounds,
        first_loss=None,
        last_loss=None,
        total_steps=config.total_steps,
        prior=prior,
    )


def progress_of(state: JobState, bounds: LrBounds) -> Progress:
    """Where a job is that has reported."""
    return Progress(
        committed_steps=state.committed_steps,
        search_steps=state.search_steps,
        remaining_steps=state.remaining_steps,
        bounds=bounds,
        first_loss=state.first_loss,
        last_loss=state.last_loss,
        stage=state.directive.stage,
        total_steps=state.total_steps,
        present_lr=state.present_lr,
        peak_lr=state.peak_lr,
        best_since_change=state.best_since_change,
        wall_time_s=state.wall_time_s,
        prior=state.prior,
        reported_steps=state.lease.n_steps - state.directive.n_steps,
    )
