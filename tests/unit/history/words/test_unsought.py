"""Stages that no search came before: their story has the LR's way, and why it went on as it did."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from lrpilot.wire.messages.schedule_parts import merged
from rich.console import Console

from tests.support.jobs.sample_jobs import history, stored
from tests.support.jobs.simulated_training import Run, SimulatedTraining, drive
from tuner_server.cli.picture import picture
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.messages import Directive, Report
from tuner_server.core.policies.fedhyper import NEEDED
from tuner_server.core.search.prior import NormCurve, Prior
from tuner_server.core.stages.fedhyper import Variant
from tuner_server.history.from_wire import job_and_history
from tuner_server.history.timeline import Timeline, timeline
from tuner_server.history.words.numbers import number, steps
from tuner_server.history.words.reasons import why
from tuner_server.history.words.unsought import unsought
from tuner_server.rpc.schedule_messages import schedule_to_pb
from tuner_server.web.pages.views import job_view

NORM = "gradient_norm"
PRODUCTS = (NORM, "update_norm", "update_product")


class Measured(SimulatedTraining):
    """Every gradient points where the step before it went, for some steps; from then on the other way."""

    def __init__(self, turns_after: float = math.inf) -> None:
        super().__init__()
        self._turns_after = turns_after

    def run(self, directive: Directive) -> Report:
        """Carries out a directive: norms of 1, and products of 1 or -1."""
        report = super().run(directive)
        sign = 1.0 if self.n_run <= self._turns_after else -1.0
        return report.model_copy(
            update={
                "measures": {
                    name: (sign if "product" in name else 1.0,) * report.n_steps for name in directive.measures
                }
            }
        )


def federated(variant: Variant) -> JobConfig:
    options = {"variant": variant.value, "local_steps": 10}
    return JobConfig(policy="fedhyper", policy_options=options, total_steps=60, base_lr=0.01, measures=NEEDED[variant])


def hypergradient() -> JobConfig:
    bounds = LrBounds(min=1e-4, max=1.0)
    return JobConfig(policy="hypergradient", total_steps=400, base_lr=0.01, measures=PRODUCTS, lr_bounds=bounds)


def shown(run: Run) -> str:
    """What `lrpilot show` says, in one line."""
    found = merged(schedule_to_pb(stored(run.state), history(run), full=True))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(picture(found.job, timeline(job_and_history(found)[1])))
    return " ".join(captured.get().split())


def single_spaced(words: str) -> str:
    """As `shown`, which has no other spaces."""
    return " ".join(words.split())


def test_a_stage_whose_lr_was_adapted_has_its_first_lr_and_its_last() -> None:
    run = drive(federated(Variant.SL), Measured())
    view = job_view(stored(run.state), timeline(history(run)))
    # The first round has none before it; each of the next four adds 0.3.
    assert "The LR went from 0.01 up to 0.022." in view.headline
    (stage,) = view.stages
    assert stage.lr == "LR 0.01 to 0.022"
    begun, _, latest = stage.why.partition(" At last: ")
    assert begun == (
        "LR 0.01 to begin with, and 0.022 at last, were committed for 60 steps, without a search: the first round, at "
        "the LR that was set."
    )
    assert latest == "the local LR goes from 1.900 to 2.200 times what it is without."
    assert single_spaced(stage.why) in shown(run)


def test_the_factor_of_the_global_step_is_told_where_the_lr_stays() -> None:
    run = drive(federated(Variant.GM), Measured())
    (stage,) = job_view(stored(run.state), timeline(history(run))).stages
    assert stage.lr == "LR 0.01"
    assert stage.why.startswith("LR 0.01 was committed for 60 steps, without a search: the first round")
    assert stage.why.endswith("At last: the global step goes from 2.200 to 2.500 times what it is without.")
    assert single_spaced(stage.why) in shown(run)


@pytest.mark.parametrize("turns_after", [math.inf, 60])
def test_a_headline_has_the_peak_of_an_lr_that_was_adapted(turns_after: float) -> None:
    run = drive(hypergradient(), Measured(turns_after))
    found = timeline(history(run))
    view = job_view(stored(run.state), found)
    peak = number(found.peak_lr)
    assert next(fact.value for fact in view.facts if fact.name == "Peak LR") == peak
    assert (f" and {peak};" in view.headline) is math.isfinite(turns_after)
    assert (f"LR 0.01 up to {peak};" in view.headline) is math.isinf(turns_after)
    assert max(stage.lr for stage in found.stages if stage.lr is not None) == found.peak_lr


def refined(parts: Sequence[float]) -> tuple[Run, Timeline]:
    job = JobConfig(
        policy="refined",
        policy_options={"refine_at": list(parts), "max_candidates": 1},
        total_steps=2000,
        lr_bounds=LrBounds(min=1e-4, max=1.0),
        base_lr=0.05,
        measures=(NORM,),
    )
    norms = NormCurve(measure=NORM, norms=(*[1.0] * 70, *np.geomspace(1.0, 9.0, 30).tolist()))
    run = drive(job, Measured(), prior=Prior(log_lr=math.log(0.05), sd=0.9, n_jobs=1, probe_steps=20, norms=norms))
    return run, timeline(history(run))


def test_a_decay_that_was_refined_twice_tells_the_steps_that_each_came_to() -> None:
    run, found = refined((0.3, 0.6))
    told = [stage for stage in found.stages if unsought(stage)]
    assert len(told) == 2
    for stage in told:
        words = why(stage, run.state.config)
        assert words == unsought(stage)
        assert f"was committed for {steps(stage.committed_steps)}" in words
        assert "which this one's followed closely" in words
    assert single_spaced(unsought(told[-1])) in shown(run)


def test_other_stages_are_told_elsewhere() -> None:
    _, found = refined(())
    assert not any(map(unsought, found.stages))
