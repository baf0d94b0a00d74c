"""A policy that does what it is told, and the reports that its jobs are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lrpilot.wire.profile import Profile

from tests.support.jobs.simulated_training import QUICK, config
from tuner_server.core.config import JobConfig
from tuner_server.core.errors import PolicyError
from tuner_server.core.job import machine
from tuner_server.core.job.machine import Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Replacement, Report
from tuner_server.core.policies.base import Options, Policy, PolicyState, Progress, Step


def report_on(
    directive: Directive, outcome: Outcome = Outcome.COMPLETED, n: int | None = None, **fields: Any
) -> Report:
    n = directive.n_steps if n is None else n
    fields.setdefault("losses", (1.0,) * n)
    return Report(directive_number=directive.number, outcome=outcome, **fields)


def step(transition: Transition, outcome: Outcome = Outcome.COMPLETED, n: int | None = None) -> Transition:
    return machine.advance(transition.state, report_on(transition.directive, outcome, n))


def mean(losses: Sequence[float]) -> float:
    return math.fsum(losses) / len(losses)


def until(phase: Phase, **options: Any) -> Transition:
    """A job whose outstanding directive is of that phase."""
    transition = machine.create(config(400, **QUICK | options))
    while transition.directive.phase is not phase:
        transition = step(transition)
    return transition


class ScriptedOptions(Options):
    """Phases in order, of `n_steps` each, that ask for `measures`; "raise" raises."""

    script: tuple[str, ...]
    n_steps: int = 5
    measures: tuple[str, ...] = ()


class Scripted(Policy[ScriptedOptions, PolicyState]):
    """Does what its options say."""

    name = "scripted"
    options_type = ScriptedOptions
    state_type = PolicyState

    def start(self, progress: Progress) -> Step[PolicyState]:
        return self._next(0)

    def advance(
        self, state: PolicyState, directive: Directive, report: Report, progress: Progress
    ) -> Step[PolicyState]:
        return self._next(directive.number)

    def rejoin(self, state: PolicyState, progress: Progress) -> Step[PolicyState]:
        return self._next(-1)

    def without_search(self, state: PolicyState, progress: Progress, reason: str) -> Step[PolicyState]:
        return self._next(-1)

    def _next(self, index: int) -> Step[PolicyState]:
        word = self.options.script[index]
        if word == "raise":
            raise PolicyError("as scripted")
        phase = Phase(word)
        n_steps = 0 if phase is Phase.STOP else self.options.n_steps
        profile = Profile.constant(0.1, n_steps) if n_steps else None
        measures = self.options.measures
        return Step(PolicyState(), Directive(phase=phase, n_steps=n_steps, profile=profile, measures=measures))


def scripted_config(*script: str, total_steps: int | None = 100) -> JobConfig:
    return config(total_steps).model_copy(update={"policy": "scripted", "policy_options": {"script": script}})


def replaced(directive: Directive, n: int, wasted: int = 0, **fields: Any) -> Report:
    fields.setdefault("replacement", Replacement(profile=Profile.constant(0.1, n) if n else None, wasted_steps=wasted))
    return report_on(directive, Outcome.REPLACED, n, **fields)


def measuring(*measures: str, asked: tuple[str, ...] = ("norm",)) -> JobConfig:
    options = {"script": ("train", "train"), "n_steps": 8, "measures": asked}
    return config(100).model_copy(update={"policy": "scripted", "policy_options": options, "measures": measures})
