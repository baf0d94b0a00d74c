"""Runs that a policy refuses, such as those too short for it."""

from __future__ import annotations

from benchmarks.quality.tuners import VARIANTS
from benchmarks.quality.workloads import Workload
from tuner_server.core import policies
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError


def refusal(contestant: str, workload: Workload, n_steps: int) -> str | None:
    """Why a policy refuses a job of `n_steps` steps; None if it accepts it, or if the contestant has none of ours."""
    variant = VARIANTS.get(contestant)
    if variant is None:
        return None
    low, high = workload.lr_range
    bounds = LrBounds(min=low * variant.low, max=high * variant.high)
    config = JobConfig(
        policy=variant.policy,
        policy_options=dict(variant.options),
        total_steps=n_steps,
        lr_bounds=bounds,
        base_lr=bounds.middle,
        has_validation=variant.validated,
    )
    try:
        policies.make(config)
    except InvalidInputError as error:
        return str(error)
    return None
