"""Policy refined: budget, until norms of an earlier job say how the decay should go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lrpilot.wire.profile import Profile, Shape

from tests.support.jobs.budget_jobs import PLAIN, profile_of
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine, schedule
from tuner_server.core.job.machine import JobState, Status, Transition
from tuner_server.core.laws.refinement import MOST_CHANGE
from tuner_server.core.messages import Decision, Directive, Outcome, Phase, Report
from tuner_server.core.search.prior import NormCurve, Prior
from tuner_server.service.family import optimum_of, prior_from

TOTAL = 2000
L2, L1 = "gradient_norm", "gradient_l1_norm"
GROWING = tuple(np.geomspace(1.0, 3.0, 100).tolist())


def config(measures: tuple[str, ...] = (L2,), **options: Any) -> JobConfig:
    return JobConfig(
        policy="refined",
        policy_options=PLAIN | options,
        total_steps=TOTAL,
        lr_bounds=LrBounds(min=1e-4, max=1.0),
        base_lr=0.1,
        measures=measures,
    )


def family(norms: tuple[float, ...], measure: str = L2) -> Prior:
    curve = NormCurve(measure=measure, norms=norms)
    return Prior(log_lr=math.log(0.05), sd=0.9, n_jobs=1, probe_steps=20, norms=curve)


class Trained:
    """A job to its end, whose norms are a function of the part of the committed steps that lies behind."""

    def __init__(
        self, job: JobConfig, prior: Prior | None, norm: Callable[[float], float], stop_at: int | None = None
    ) -> None:
        training = SimulatedTraining(best_lr=0.05)
        transition = machine.create(job, prior)
        self.directives: list[Directive] = []
        self.decisions: list[Decision] = []
        self.reports: list[Report] = []
        while transition.directive.phase is not Phase.STOP:
            self._take(transition)
            report = training.run(transition.directive)
            report = report.model_copy(update={"measures": measured(transition, len(report.losses), norm)})
            self.reports.append(report)
            transition = machine.advance(transition.state, report)
            if stop_at is not None and transition.state.committed_steps >= stop_at:
                break
        self._take(transition)
        self.state: JobState = transition.state
        self.lrs = training.lrs

    def _take(self, transition: Transition) -> None:
        self.directives.append(transition.directive)
        if transition.decision is not None:
            self.decisions.append(transition.decision)

    @property
    def refinements(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.reason.startswith("the decay was refined")]


def measured(transition: Transition, n: int, norm: Callable[[float], float]) -> dict[str, tuple[float, ...]]:
    directive = transition.directive
    profile = profile_of(directive)
    parts = ((profile.offset + step - profile.warmup) / (profile.length - profile.warmup) for step in range(n))
    values = tuple(norm(part) for part in parts)
    return dict.fromkeys(directive.measures, values)


def growing(part: float) -> float:
    return float(3.0 ** max(part, 0.0))


def test_norms_are_asked_for_at_committed_steps_and_at_no_probe() -> None:
    job = Trained(config(), None, growing)
    assert {each.measures for each in job.directives if each.phase is Phase.TRAIN} == {(L2,)}
    assert not any(each.measures for each in job.directives if each.phase is Phase.PROBE)


@pytest.mark.parametrize(
    ("measures", "options", "asked"),
    [
        ((L2, L1), {}, (L2,)),
        ((L2, L1, "gradient_over_eps"), {}, (L1,)),
        ((L2, L1), {"optimizer": "adam"}, (L1,)),
        ((L2, L1, "gradient_over_eps"), {"optimizer": "sgd"}, (L2,)),
        ((L2,), {"optimizer": "adam"}, ()),
        ((), {}, ()),
    ],
)
def test_which_norm_is_asked_for_is_a_matter_of_the_optimizer(
    measures: tuple[str, ...], options: dict[str, Any], asked: tuple[str, ...]
) -> None:
    job = Trained(config(measures, max_candidates=1, **options), None, growing, stop_at=1)
    assert job.directives[-1].phase is Phase.TRAIN
    assert job.directives[-1].measures == asked


def test_the_first_job_of_a_family_decays_as_with_budget_and_leaves_its_norms() -> None:
    job = Trained(config(), None, growing)
    budget = drive(config().model_copy(update={"policy": "budget"}), SimulatedTraining(best_lr=0.05))
    assert job.refinements == []
    outline = schedule.Outline.of(budget.exchanges)
    assert job.lrs == [lr for each in outline.segments for lr in lrs_of(each.profile, each.n_steps)]
    found = optimum_of(job.state)
    assert found is not None
    assert found.norms is not None
    assert found.norms.measure == L2
    assert np.array(found.norms.norms) == pytest.approx(GROWING, rel=0.06)
    prior = prior_from([job.state])
    assert prior is not None
    assert prior.norms == found.norms


def lrs_of(profile: Profile, n: int) -> list[float]:
    return [profile.lr(step) for step in range(n)]


def test_the_next_job_decays_as_the_norms_of_the_first_ask_for() -> None:
    job = Trained(config(), family(GROWING), growing)
    first, second = job.refinements
    assert job.state.status is Status.FINISHED
    n = job.state.committed_steps
    begun = next(each for each in job.directives if each.phase is Phase.TRAIN)
    old = np.array(lrs_of(profile_of(begun), n))
    new = np.array(job.lrs)
    at = round(0.3 * n)
    assert new[:at] == pytest.approx(old[:at])
    jump = np.abs(np.diff(new[at - 5 : at + 5])).max()
    assert jump < 4 * np.abs(np.diff(old[at - 5 : at + 5])).max()
    ratio = new[at + 1 :] / old[at + 1 :]
    assert ratio.min() >= MOST_CHANGE**-2 - 1e-3
    assert ratio[n // 2 - at] < 0.9, "larger norms to come ask for less of an LR there"
    assert profile_of(job.directives[-2]).lr(job.directives[-2].n_steps) == 0.0
    for each in (first, second):
        assert "gradient_norm of an earlier job" in each.reason
    assert f"after {at} of {n} steps" in first.reason


def test_a_refined_schedule_is_a_function_of_config_prior_and_reports() -> None:
    job = Trained(config(), family(GROWING), growing)
    again = machine.replay(config(), job.reports, family(GROWING))
    assert again.state == job.state


def test_norms_that_go_another_way_are_not_believed() -> None:
    job = Trained(config(), family(GROWING), lambda part: float(0.01 ** max(part, 0.0)))
    assert job.refinements == []
    cosine = Trained(config(decay="cosine"), family(GROWING), lambda part: float(0.01 ** max(part, 0.0)))
    assert "have left those of an earlier job by a factor of" in cosine.refinements[0].reason


def test_other_norms_than_its_own_say_nothing() -> None:
    assert Trained(config(), family(GROWING, L1), growing).refinements == []


@pytest.mark.parametrize("norm", [math.nan, 0.0, math.inf])
def test_norms_that_are_no_numbers_change_nothing(norm: float) -> None:
    job = Trained(config(), family(GROWING), lambda _part: norm)
    assert job.state.status is Status.FINISHED
    assert job.refinements == []
    found = optimum_of(job.state)
    assert found is not None
    assert found.norms is None


def test_another_decay_becomes_linear_where_nothing_speaks_against_it() -> None:
    job = Trained(config(decay="cosine", refine_at=[0.3]), None, growing)
    [only] = job.refinements
    assert "linear decay" in only.reason
    n = job.state.committed_steps
    rest = np.array(job.lrs[round(0.35 * n) : round(0.6 * n)])
    assert np.abs(np.diff(rest, 2)).max() < 1e-4 * max(job.lrs)


def test_refinements_are_where_they_are_asked_for() -> None:
    job = Trained(config(refine_at=[0.5]), family(GROWING), growing)
    assert len(job.refinements) == 1
    assert not Trained(config(refine_at=[]), family(GROWING), growing).refinements


def test_steps_that_are_rolled_back_leave_no_norms() -> None:
    """What follows on a setback begins anew, and is refined like the first attempt."""
    job = Trained(config(), family(GROWING), growing, stop_at=900)
    assert job.refinements
    directive = job.directives[-1]
    diverged = Report(directive_number=directive.number, outcome=Outcome.DIVERGED, losses=(math.nan,))
    transition = machine.advance(job.state, diverged)
    assert transition.directive.restore
    assert profile_of(transition.directive).shape == Shape.LINEAR
    assert profile_of(transition.directive).start_lr < profile_of(directive).start_lr
    assert transition.state.policy_state is not None
    assert transition.state.policy_state["track"]["norms"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decay": "constant"}, "changes how an LR decays"),
        ({"refine_at": [0.6, 0.3]}, "ascending"),
        ({"refine_at": [0.3, 0.3]}, "ascending"),
        ({"refine_at": [0.0]}, "greater than 0"),
        ({"refine_at": [1.0]}, "less than 1"),
        ({"optimizer": "lion"}, "sgd"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        machine.create(config(**options))
