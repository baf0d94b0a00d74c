"""Acquisition functions against quadrature, BoTorch and their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import LogExpectedImprovement as BotorchLogExpectedImprovement
from botorch.utils.testing import MockModel, MockPosterior
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from tuner_server.core.search.acquisition import (
    _TAIL,
    Acquisition,
    LogExpectedImprovement,
    LowerConfidenceBound,
    h,
    log_expected_improvement,
    log_h_tail,
    log_improvement_bound,
    lower_confidence_bound,
)
from tuner_server.core.search.gaussian_process.posterior import FloatArray, Posterior


def single(mean: list[float], variance: list[float]) -> Posterior:
    return Posterior(np.array([mean]), np.array([variance]), np.ones(1))


def log_h(u: FloatArray) -> FloatArray:
    """By the form that the acquisition uses for each u."""
    value = np.empty_like(u)
    tail = u < _TAIL
    value[tail] = log_h_tail(u[tail])
    value[~tail] = np.log(h(u[~tail]))
    return value


@pytest.mark.parametrize("u", [3.0, 0.0, -0.99, -1.01, -4.0, -10.0, -30.0])
def test_log_h_is_the_integral(u: float) -> None:
    # h(u) = E[max(u + z, 0)], with the density's value at the lower end taken out so that nothing underflows.
    def integrand(t: float) -> float:
        return t * math.exp(-0.5 * t * t + t * min(u, 0.0))

    if u <= 0:
        value, _ = integrate.quad(integrand, 0.0, np.inf, epsabs=0.0)
        expected = math.log(value) + stats.norm.logpdf(u)
    else:
        value, _ = integrate.quad(lambda z: (u + z) * stats.norm.pdf(z), -u, np.inf)
        expected = math.log(value)
    assert log_h(np.array([u]))[0] == pytest.approx(expected, rel=1e-9)


def test_log_h_is_botorchs_far_into_the_tails() -> None:
    """BoTorch's own class, given the same means and a best value of 0."""
    u = torch.cat([-torch.logspace(12, -3, 200, dtype=torch.float64), torch.logspace(-3, 6, 50, dtype=torch.float64)])
    model = MockModel(MockPosterior(mean=u[:, None, None], variance=torch.ones(len(u), 1, 1).double()))
    expected = BotorchLogExpectedImprovement(model, best_f=0.0)(torch.zeros(len(u), 1, 1).double())
    np.testing.assert_allclose(log_h(u.numpy()), expected.numpy(), rtol=1e-7, atol=1e-7)


def test_log_h_rises_without_a_step_where_its_forms_meet() -> None:
    u = _TAIL + abs(_TAIL) * np.linspace(-1e-3, 1e-3, 101)
    steps = np.diff(log_h(u))
    assert (steps > 0).all()
    assert steps.max() / steps.min() < 1.1


def test_a_mixture_of_hopeless_gaussians_ranks_as_the_logarithms_say() -> None:
    """Some of whose expectations underflow, beside LRs where none does."""
    mean = np.array([[0.0, 25.0, 50.0, 1e6], [0.5, 30.0, 45.0, 1e5]])
    variance, weight = np.array([[1.0, 1.0, 1.0, 4.0], [2.0, 1.0, 1.0, 1.0]]), np.array([0.25, 0.75])
    got = log_expected_improvement(Posterior(mean, variance, weight), best=0.0)
    terms = log_h(-mean / np.sqrt(variance)) + 0.5 * np.log(variance) + np.log(weight)[:, None]
    np.testing.assert_allclose(got, special.logsumexp(terms, axis=0), rtol=1e-9)


def test_expected_improvement_of_a_mixture_is_the_mean_of_its_parts() -> None:
    mean, sd, weight = np.array([1.0, 3.0]), np.array([0.5, 2.0]), np.array([0.3, 0.7])
    best = 0.8
    draws = np.random.default_rng(0).normal(size=400_000)
    expected = sum(w * np.maximum(best - (m + s * draws), 0.0).mean() for w, m, s in zip(weight, mean, sd, strict=True))
    got = log_expected_improvement(Posterior(mean[:, None], sd[:, None] ** 2, weight), best)
    assert math.exp(got[0]) == pytest.approx(expected, rel=0.01)


def test_expected_improvement_ranks_even_where_it_would_underflow() -> None:
    value = log_expected_improvement(single([100.0, 200.0, 300.0], [1.0, 1.0, 1.0]), best=0.0)
    assert np.isfinite(value).all()
    assert (np.diff(value) < 0).all()


def test_lower_losses_are_better() -> None:
    posterior = single([1.0, 2.0], [0.1, 0.1])
    for acquisition in (LowerConfidenceBound(), LogExpectedImprovement()):
        value = acquisition.evaluate(posterior, best=1.5)
        assert value[0] > value[1]


def test_confidence_bound_is_that_of_the_mixture() -> None:
    posterior = Posterior(np.array([[0.0], [4.0]]), np.array([[1.0], [3.0]]), np.array([0.25, 0.75]))
    assert lower_confidence_bound(posterior.moments, kappa=2.0) == pytest.approx([2.0 * math.sqrt(5.5) - 3.0])


def test_kappa_of_the_published_code_is_pure_exploration() -> None:
    rng = np.random.default_rng(1)
    mean: FloatArray = rng.normal(size=(3, 50))
    posterior = Posterior(mean, rng.uniform(0.1, 1.0, size=(3, 50)), np.array([0.5, 0.3, 0.2]))
    value = LowerConfidenceBound(kappa=1e6).evaluate(posterior, best=0.0)
    assert value.argmax() == posterior.mixture_variance.argmax()


@pytest.mark.parametrize("acquisition", [LowerConfidenceBound(kappa=3.0), LogExpectedImprovement()])
@pytest.mark.parametrize("mean", [-3.0, 0.9, 1.4, 2.3])
def test_the_likely_value_is_that_of_one_gaussian(acquisition: Acquisition, mean: float) -> None:
    value = acquisition.evaluate(single([mean], [0.25]), best=1.0)
    assert acquisition.likely(mean, 0.25, best=1.0) == pytest.approx(value[0], rel=1e-9)


def test_the_likely_value_of_a_hopeless_lr_is_finite() -> None:
    assert math.isfinite(LogExpectedImprovement().likely(1e30, 1e-6, best=0.0))


@given(
    st.lists(st.tuples(st.floats(-50.0, 50.0), st.floats(1e-6, 20.0), st.floats(0.01, 1.0)), min_size=1, max_size=6),
    st.floats(-50.0, 50.0),
)
@settings(max_examples=200, deadline=None)
def test_no_mixture_is_worth_more_than_the_bound_from_its_moments(
    parts: list[tuple[float, float, float]], best: float
) -> None:
    mean, sd, weight = (np.array(column) for column in zip(*parts, strict=True))
    posterior = Posterior(mean[:, None], sd[:, None] ** 2, weight / weight.sum())
    value = log_expected_improvement(posterior, best)
    assert (log_improvement_bound(posterior.moments, best) >= value).all()
