"""Jobs of policy budget, carried out by reports that are made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lrpilot.wire.profile import Profile

from tests.support.jobs.simulated_training import Exchange, Run
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.evidence.promise import FIRST_LOSSES
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Report, Validation

PLAIN: dict[str, Any] = {"probe_steps": 20, "refinements": 3, "max_candidates": 8}
"""A search that tests can count on, whatever the defaults are."""
BOUNDS = (1e-4, 1.0)
DIVERGES = math.inf


def config(
    total_steps: int | None = 4000,
    *,
    bounds: tuple[float, float] | None = BOUNDS,
    has_validation: bool = False,
    has_average: bool = False,
    seed: int = 0,
    members: int = 1,
    **options: Any,
) -> JobConfig:
    """A job of policy budget; keywords are its options."""
    return JobConfig(
        policy="budget",
        policy_options=options,
        total_steps=total_steps,
        lr_bounds=None if bounds is None else LrBounds(min=bounds[0], max=bounds[1]),
        base_lr=0.1,
        has_validation=has_validation,
        has_average=has_average,
        seed=seed,
        members=members,
    )


def report_on(directive: Directive, loss: float, *, steps: int | None = None) -> Report:
    """All steps at one loss; with `steps`, so many and then a divergence."""
    n_steps = directive.n_steps if steps is None else steps
    losses = (loss,) * n_steps if steps is None else (loss,) * (n_steps - 1) + (math.nan,)
    return Report(
        directive_number=directive.number,
        outcome=Outcome.COMPLETED if steps is None else Outcome.DIVERGED,
        losses=losses,
        validations=tuple(Validation(step=step, loss=loss) for step in directive.validate_at if step <= n_steps),
    )


def falling_on(directive: Directive, begin: float, end: float) -> Report:
    """All steps, the first few at one loss and the others at another; validated alike."""
    n_first = min(FIRST_LOSSES, directive.n_steps - 1)
    return Report(
        directive_number=directive.number,
        outcome=Outcome.COMPLETED,
        losses=(begin,) * n_first + (end,) * (directive.n_steps - n_first),
        validations=tuple(Validation(step=step, loss=end if step else begin) for step in directive.validate_at),
    )


def short_on(directive: Directive, loss: float, steps: int) -> Report:
    """So many steps at one loss, which was not promised so high."""
    return Report(directive_number=directive.number, outcome=Outcome.FELL_SHORT, losses=(loss,) * steps)


def profile_of(directive: Directive) -> Profile:
    """The profile of a directive that has steps."""
    assert directive.profile is not None
    return directive.profile


def bowl(best_lr: float, edge_lr: float = math.inf) -> Callable[[float], float]:
    """A loss over peak LR with its lowest point at `best_lr`; beyond `edge_lr` there is none."""

    def loss(lr: float) -> float:
        return DIVERGES if lr > edge_lr else 1.0 + 0.1 * math.log(lr / best_lr) ** 2

    return loss


def search(config: JobConfig, loss: Callable[[float], float]) -> Run:
    """The job up to its first committed lease, every probe of which ends at the loss of its peak LR."""
    transition = machine.create(config)
    exchanges = []
    while transition.directive.phase is not Phase.TRAIN:
        directive = transition.directive
        level = loss(profile_of(directive).start_lr)
        report = report_on(directive, 1.0, steps=5) if level == DIVERGES else report_on(directive, level)
        exchanges.append(Exchange(directive, transition.decision, report))
        transition = machine.advance(transition.state, report)
    exchanges.append(Exchange(transition.directive, transition.decision, None))
    return Run(transition.state, exchanges)


def probed(run: Run) -> list[float]:
    """The peaks of the probes, in order."""
    return [profile_of(exchange.directive).start_lr for exchange in run.of(Phase.PROBE)]


def committed(run: Run) -> float:
    """The peak of the first committed lease."""
    return profile_of(run.of(Phase.TRAIN)[0].directive).start_lr


def committing(asked: JobConfig, begin: float = 1.0, end: float = 1.0) -> Transition:
    """A job whose outstanding directive is its committed lease, all probes of which led from one loss to another."""
    transition = machine.create(asked)
    while transition.directive.phase is not Phase.TRAIN:
        transition = machine.advance(transition.state, falling_on(transition.directive, begin, end))
    return transition
