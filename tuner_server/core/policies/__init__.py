"""The policies by name: those of LRPilot, and those of other packages that are installed beside it."""

from __future__ import annotations

from typing import Any

from tuner_server.core.config import JobConfig
from tuner_server.core.errors import InvalidInputError, meant
from tuner_server.core.faults import guarded
from tuner_server.core.policies import plugins
from tuner_server.core.policies.autolrs import AutoLrs
from tuner_server.core.policies.base import Policy
from tuner_server.core.policies.budget import Budget
from tuner_server.core.policies.fedhyper import FedHyper
from tuner_server.core.policies.hypergradient import Hypergradient
from tuner_server.core.policies.open_ended import OpenEnded
from tuner_server.core.policies.refined import Refined

POLICIES: dict[str, type[Policy[Any, Any]]] = {
    policy.name: policy for policy in (AutoLrs, Budget, FedHyper, Hypergradient, OpenEnded, Refined)
}
"""LRPilot's own. A new one is a file beside this one, and a name in this line."""


def default_name(config: JobConfig) -> str:
    """The policy of a job that names none."""
    return OpenEnded.name if config.total_steps is None else Budget.name


def named(config: JobConfig) -> str:
    """The name of a job's policy."""
    return config.policy or default_name(config)


def find(name: str) -> type[Policy[Any, Any]]:
    """The policy of that name.

    Raises:
        InvalidInputError: there is none, or a package offers one that can't be used.
    """
    if name in POLICIES:
        return POLICIES[name]
    if name not in plugins.offered():
        known = sorted({*POLICIES, *plugins.offered()})
        raise InvalidInputError.of("policy", f"unknown policy {name!r}{meant(name, known)}")
    try:
        return plugins.load(name)
    except plugins.UnusablePolicyError as error:
        raise InvalidInputError.of("policy", str(error)) from error


def make(config: JobConfig) -> Policy[Any, Any]:
    """The policy of a job, its options checked.

    Raises:
        InvalidInputError: unknown policy, unknown option, or options that don't fit the job.
    """
    kind = find(named(config))
    with guarded("making it"):
        return kind(config)
