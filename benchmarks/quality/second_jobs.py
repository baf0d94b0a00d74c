"""Policies as the second job of their family, after one job with another seed."""

from __future__ import annotations

from functools import cache, partial

from benchmarks.quality.contestant import by_name, lr_free
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.training import Curve
from benchmarks.quality.tuners import Variant
from benchmarks.quality.workloads import WORKLOADS, Workload
from tuner_server.core.search.prior import Prior
from tuner_server.service.family import prior_from

FIRST_SEED = 100
"""The seed of the first job, which no other run has."""


@cache
def _left_by_the_first(policy: str, workload: str, n_steps: int) -> Prior | None:
    """What a whole job leaves to its family."""
    transport = LocalTransport()
    Variant(policy).job(WORKLOADS[workload], n_steps, FIRST_SEED, transport)
    return prior_from([transport.state])


def _run(policy: str, workload: Workload, n_steps: int, seed: int) -> Curve:
    """The second job alone: what the first one cost is not within its steps."""
    prior = _left_by_the_first(policy, workload.name, n_steps)
    return Variant(policy).job(workload, n_steps, seed, LocalTransport(prior))


CONTESTANTS = by_name(
    lr_free("refined, second job", partial(_run, "refined")),
    lr_free("budget, second job", partial(_run, "budget")),
)
