"""Makes the runs of a plan that are missing, and stores each as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from benchmarks.onthefly.contestant import Trial
from benchmarks.onthefly.contestants import CONTESTANTS
from benchmarks.onthefly.phases import thinned, without_course
from benchmarks.onthefly.plan import Plan
from benchmarks.onthefly.workloads import WORKLOADS
from benchmarks.pool import run_in_workers
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.scores import scores
from benchmarks.quality.training import Curve

DRAWN_SEED = 0
"""The seed whose losses are drawn over steps; of others only the end is stored."""


class Job(NamedTuple):
    """A run that is missing, and the LR before the change where the contestant has one of its own there."""

    key: RunKey
    first_lr: float | None


def run(job: Job) -> Curve:
    """Trains one run."""
    key = job.key
    trial = Trial(key.lr, key.seed, key.n_steps, job.first_lr)
    curve = CONTESTANTS[key.contestant].run(WORKLOADS[key.workload], trial)
    return thinned(curve) if key.seed == DRAWN_SEED else without_course(curve)


def run_missing(plan: Plan, done: dict[RunKey, Curve], results: ResultFile, n_workers: int) -> None:
    """Runs all that is planned and missing, seed by seed, so that an interrupted plan has the first seeds complete.

    Args:
        plan: What is to be run.
        done: All finished runs; those that are made are added.
        results: Takes what is run.
        n_workers: Processes, one thread each.
    """
    for n_seeds in range(1, plan.n_seeds + 1):
        part = replace(plan, n_seeds=n_seeds)
        while jobs := _missing(part, done):
            for job, curve in run_in_workers("runs", jobs, run, _description, n_workers):
                results.append(job.key, curve)
                done[job.key] = curve


def _missing(plan: Plan, done: Mapping[RunKey, Curve]) -> list[Job]:
    """What can be planned and is not there."""
    planned = plan.after(scores(done, plan.score_functions))
    return [Job(key, planned.first_lrs.get(key)) for key in planned.keys if key not in done]


def _description(job: Job) -> str:
    return f"{job.key.contestant} {job.key.workload}"
