"""The family benchmark: what it compares, and one small job."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.family import NO_PRIOR, QUICK, Run, as_json, job, plot, priors, summarise
from tuner_server.core.search.prior import Prior
from tuner_server.service.family import optimum_of

RIGHT = Prior(log_lr=math.log(0.01), sd=0.5, n_jobs=3, probe_steps=25)


def run(prior: str, seed: int, probes: int, loss: float) -> Run:
    return Run("mlp", seed, prior, probes, search_steps=10 * probes, peak_lr=0.1, final_val_loss=loss)


RUNS = [run(NO_PRIOR, 0, 6, 1.0), run(NO_PRIOR, 1, 8, 2.0), run("family's", 0, 3, 1.1), run("family's", 1, 9, 2.0)]


def test_every_job_is_compared_with_itself_without_a_prior() -> None:
    own, everything = summarise(RUNS)
    assert (own.workload, everything.workload) == ("mlp", "all")
    assert own.probes == (7.0, 6.0)
    assert own.most_extra_probes == 1
    assert own.search_steps == pytest.approx((math.sqrt(0.5 * 9 / 8), 0.5, 9 / 8))
    assert own.loss == pytest.approx((math.sqrt(1.1), 1.0, 1.1))


def test_wrong_priors_are_as_sure_as_the_right_one() -> None:
    compared = priors(RIGHT)
    wrong = [prior for prior in compared.values() if prior not in (None, RIGHT)]
    assert [math.exp(prior.log_lr) for prior in wrong if prior] == pytest.approx([0.3, 0.01 / 30])
    assert {prior.sd for prior in wrong if prior} == {RIGHT.sd}


def test_a_job_that_diverged_has_no_loss_in_the_file(tmp_path: Path) -> None:
    runs = [*RUNS, run("x30", 0, 7, math.inf), run("x30", 1, 7, 2.0)]
    figures = as_json(QUICK, {"mlp": RIGHT}, runs, summarise(runs))
    again = json.loads(json.dumps(figures, allow_nan=False))
    assert again["runs"][4]["final_val_loss"] is None
    plot(RUNS, tmp_path / "family.png")
    assert (tmp_path / "family.png").stat().st_size > 1000


def test_an_earlier_job_ends_with_its_search() -> None:
    ended = job("mlp", 0, 1000, None, whole=False)
    assert optimum_of(ended.state) is not None
    assert ended.state.committed_steps == 0
