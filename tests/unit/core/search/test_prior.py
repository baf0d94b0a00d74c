"""What earlier jobs make of a prior."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner_server.core.search.prior import LEAST_SD, LENGTH_EXPONENT, SPREAD, NormCurve, Optimum, Prior, prior_of


def optimum(lr: float, probe_steps: int = 30, *, good_end: bool = True) -> Optimum:
    return Optimum(log_lr=math.log(lr), probe_steps=probe_steps, good_end=good_end)


def made(*optima: Optimum) -> Prior:
    prior = prior_of(optima)
    assert prior is not None
    return prior


def test_no_jobs_make_no_prior() -> None:
    assert prior_of([]) is None


def test_one_job_makes_a_wide_prior_at_its_optimum() -> None:
    prior = made(optimum(0.02))
    assert (prior.n_jobs, prior.probe_steps) == (1, 30)
    assert math.exp(prior.log_lr) == pytest.approx(0.02)
    assert prior.sd == pytest.approx(SPREAD)


def test_jobs_that_agree_narrow_it_and_jobs_that_do_not_widen_it() -> None:
    sds = [made(*[optimum(0.02)] * n).sd for n in (1, 2, 5, 20)]
    assert sds == sorted(sds, reverse=True)
    assert made(*[optimum(0.002), optimum(0.2)] * 5).sd > 2 * sds[-1]


def test_newer_jobs_weigh_more() -> None:
    old_first, new_first = made(optimum(0.1), optimum(0.01)), made(optimum(0.01), optimum(0.1))
    assert new_first.log_lr < math.log(math.sqrt(0.001)) < old_first.log_lr


def test_a_bad_end_weighs_less() -> None:
    assert made(optimum(0.1, good_end=False), optimum(0.01)).log_lr < made(optimum(0.1), optimum(0.01)).log_lr


def test_probes_of_other_lengths_are_shifted_by_the_power_law() -> None:
    """The best LR of a probe falls with its length."""
    longer = optimum(0.01 * (40 / 20) ** -LENGTH_EXPONENT, 40)
    prior = made(optimum(0.01, 20), longer)
    assert math.exp(prior.log_lr) == pytest.approx(0.01)
    assert math.exp(prior.at(40, LENGTH_EXPONENT)) == pytest.approx(math.exp(longer.log_lr))


@given(st.lists(st.builds(Optimum, log_lr=st.floats(-70, 70), probe_steps=st.integers(1, 10**6)), min_size=1))
def test_a_prior_lies_among_its_jobs_and_is_never_certain(optima: list[Optimum]) -> None:
    prior = made(*optima)
    xs = [made(o).at(prior.probe_steps, LENGTH_EXPONENT) for o in optima]
    assert min(xs) - 1e-9 <= prior.log_lr <= max(xs) + 1e-9
    assert prior.sd >= LEAST_SD
    assert Prior.model_validate_json(prior.model_dump_json()) == prior


def test_the_newest_job_that_left_norms_says_what_they_are() -> None:
    old, new = NormCurve(measure="gradient_norm", norms=(1.0, 2.0)), NormCurve(measure="gradient_norm", norms=(3.0,))
    bare, measured = optimum(0.1), [optimum(0.1).model_copy(update={"norms": curve}) for curve in (new, old)]
    assert made(bare, *measured).norms == new
    assert made(bare).norms is None
