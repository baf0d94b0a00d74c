"""The policies by name."""

from __future__ import annotations

from typing import Any

from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.policies.autolrs import AutoLrs
from tuner_server.core.policies.base import Policy
from tuner_server.core.policies.budget import Budget

POLICIES: dict[str, type[Policy[Any, Any]]] = {policy.name: policy for policy in (AutoLrs, Budget)}


def default_name(config: JobConfig) -> str:
    """The policy of a job that names none."""
    return AutoLrs.name if config.total_steps is None else Budget.name


def make(config: JobConfig) -> Policy[Any, Any]:
    """The policy of a job, its options checked.

    Raises:
        InvalidInputError: unknown policy, unknown option, or options that don't fit the job.
    """
    name = config.policy or default_name(config)
    if name not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise InvalidInputError.of("policy", f"unknown policy {name!r}; there are: {known}")
    return POLICIES[name](config)
