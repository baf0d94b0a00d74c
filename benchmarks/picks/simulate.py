"""Policy `budget` itself, driven against a landscape in place of a training run.

A probe's validation is the landscape's. Its training losses are made up, a straight line from the loss before the first
step to that of batches which it has not trained on. That is enough: where probes are validated, training losses only
say which probes have diverged and what is promised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lrpilot.wire.divergence import BAD_LOSSES, first_divergence

from benchmarks.picks.landscape import Landscape
from benchmarks.quality.workloads import Workload
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job import machine
from tuner_server.core.messages import Directive, Outcome, Phase, Report, Validation

BLOW_UP = 10.0
"""The loss of a probe that diverged grows so many times a step, and is not finite after `BAD_LOSSES` steps."""


@dataclass(frozen=True)
class Pick:
    """What a search came to.

    Attributes:
        lr: The peak LR that is committed.
        search_steps: Steps that were rolled back; 0 if there was no search.
    """

    lr: float
    search_steps: int


def config(workload: Workload, n_steps: int, users_lr: float, seed: int, options: Mapping[str, Any]) -> JobConfig:
    """A job of policy `budget` with validation, over the workload's range, as the quality benchmark runs it."""
    low, high = workload.lr_range
    return JobConfig(
        policy="budget",
        policy_options=dict(options),
        total_steps=n_steps,
        lr_bounds=LrBounds(min=low, max=high),
        base_lr=users_lr,
        seed=seed,
        has_validation=True,
    )


def simulate(landscape: Landscape, job_config: JobConfig) -> Pick:
    """Runs a job up to its first committed step.

    Raises:
        ValueError: The landscape has no probes of the length that the job asks for.
        InvalidInputError: The job asks for what can't be done.
    """
    transition = machine.create(job_config)
    while transition.directive.phase is Phase.PROBE:
        transition = machine.advance(transition.state, report(landscape, transition.directive))
    directive = transition.directive
    if directive.phase is not Phase.TRAIN or directive.profile is None:
        raise ValueError(f"the job ended without committed steps: {directive.reason}")
    return Pick(directive.profile.start_lr, transition.state.search_steps)


def report(landscape: Landscape, directive: Directive) -> Report:
    """What a client would report of a probe."""
    assert directive.profile is not None
    n, x = directive.profile.length, np.array([math.log(directive.profile.start_lr)])
    end, validation = (float(surface.at(n, x)[0]) for surface in (landscape.held_out, landscape.validation))
    if math.isfinite(end + validation):
        losses = tuple(np.linspace(landscape.first_loss, end, n).tolist())
    else:
        losses = (*(landscape.first_loss * BLOW_UP**i for i in range(min(BAD_LOSSES, n - 1))), math.nan)
    limit = math.inf if directive.give_up_above is None else directive.give_up_above
    diverged = first_divergence(losses, limit)
    if diverged is not None:
        return Report(directive_number=directive.number, outcome=Outcome.DIVERGED, losses=losses[: diverged + 1])
    validations = {0: landscape.first_validation, n: validation}
    return Report(
        directive_number=directive.number,
        outcome=Outcome.COMPLETED,
        losses=losses,
        validations=tuple(Validation(step=step, loss=validations[step]) for step in directive.validate_at),
    )
