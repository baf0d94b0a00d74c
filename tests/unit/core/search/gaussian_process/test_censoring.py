"""What the surrogate makes of losses of which only a lower bound is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from tests.support.observations import BOUNDS, GRID, normalised, observe, textbook_gp, wave
from tuner_server.core.search.gaussian_process.censoring import SOFTNESS, propagate
from tuner_server.core.search.gaussian_process.elimination import Elimination
from tuner_server.core.search.gaussian_process.surrogate import FloatArray, Surrogate


def test_mean_at_a_censored_lr_lies_above_the_threshold() -> None:
    """Both where the others would have put it far below, and where they agree."""
    log_lr = [-8.0, -6.0, -5.0, -4.0, -3.0, -1.0]
    loss = [3.4, 2.6, 2.3, 2.0, 1.9, 3.2]
    posterior = Surrogate(BOUNDS).fit(observe(log_lr, loss, censored=[5])).posterior(np.array([-1.0]))
    assert posterior.mixture_mean[0] > 3.2
    seen = Surrogate(BOUNDS).fit(observe(log_lr[:5], loss[:5])).posterior(np.array([-1.0]))
    assert seen.mixture_mean[0] < 3.0


def test_censored_posterior_and_evidence_are_those_of_numerical_integration(
    single_setting: tuple[float, float, float],
) -> None:
    """With one censored observation: f there is Gaussian given the others, cut off at the threshold."""
    observations = observe([-8.0, -5.0, -3.5, -2.5], [2.5, 2.2, 2.0, 2.45], censored=[3])
    fitted = Surrogate(BOUNDS).fit(observations)
    x = normalised(observations.log_lr)
    y = (observations.loss - fitted.centre) / fitted.scale
    noise_var = observations.noise_var / fitted.scale**2
    mean, variance, _ = textbook_gp(x[:3], y[:3], noise_var[:3], x[3:], single_setting)
    softness = noise_var[3] + SOFTNESS
    given_others = stats.norm(mean[0], math.sqrt(variance[0]))

    def moment(power: int) -> float:
        return float(
            integrate.quad(
                lambda f: f**power * given_others.pdf(f) * stats.norm.cdf((f - y[3]) / math.sqrt(softness)),
                mean[0] - 12.0,
                mean[0] + 12.0,
                points=[y[3]],
                limit=400,
                epsabs=0.0,
            )[0]
        )

    z = moment(0)
    expected_mean = moment(1) / z
    posterior = fitted.posterior(observations.log_lr[3:])
    got_mean = (posterior.mean[0, 0] - fitted.centre) / fitted.scale
    assert got_mean == pytest.approx(expected_mean, abs=1e-6)
    expected_variance = moment(2) / z - expected_mean**2
    assert posterior.variance[0, 0] / fitted.scale**2 == pytest.approx(expected_variance, rel=1e-4)

    work = Elimination(1, 1)
    work.columns[0] = [[variance[0]], [-mean[0]]]
    pseudo = propagate(work, y[3:, None], np.array([[softness]]))
    m, tau = float(pseudo.target[0, 0]), float(pseudo.variance[0, 0])
    evidence = stats.norm(mean[0], math.sqrt(variance[0] + tau)).logpdf(m) + float(pseudo.log_correction[0])
    assert evidence == pytest.approx(math.log(z), abs=1e-6)


def test_censored_evidence_of_several_is_that_of_sampling() -> None:
    """log P(f >= t for all), whose exact value is that of the normal distribution's integral; softness all but none."""
    rng = np.random.default_rng(3)
    root = rng.normal(size=(3, 3))
    covariance, mean, threshold = root @ root.T + 0.3 * np.eye(3), rng.normal(size=3), 0.3 * rng.normal(size=3)
    work = Elimination(3, 1, 1)
    work.columns[:, :3, 0] = covariance
    work.columns[:, 3, 0] = -mean
    pseudo = propagate(work, threshold[:, None], np.full((3, 1), 1e-6))
    seen = stats.multivariate_normal(mean, covariance + np.diag(pseudo.variance[:, 0]))
    evidence = seen.logpdf(pseudo.target[:, 0]) + float(pseudo.log_correction[0])
    exact = stats.multivariate_normal(-mean, covariance).cdf(-threshold)
    assert evidence == pytest.approx(math.log(exact), abs=0.02)


def test_a_censored_threshold_that_says_nothing_changes_nothing() -> None:
    seen = wave(6)
    log_lr = np.append(seen.log_lr, -1.0)
    vacuous = observe(log_lr, np.append(seen.loss, -1e3), censored=[6])
    expected = Surrogate(BOUNDS).fit(seen).posterior(GRID)
    got = Surrogate(BOUNDS).fit(vacuous).posterior(GRID)
    np.testing.assert_allclose(got.mixture_mean, expected.mixture_mean, rtol=1e-5)
    np.testing.assert_allclose(got.mixture_variance, expected.mixture_variance, rtol=1e-4)


def test_the_curve_follows_the_threshold_continuously_and_a_huge_one_is_no_magic_number() -> None:
    seen = wave(6)
    log_lr = np.append(seen.log_lr, -0.5)

    def curve(threshold: float) -> FloatArray:
        observations = observe(log_lr, np.append(seen.loss, threshold), censored=[6])
        return Surrogate(BOUNDS).fit(observations).posterior(GRID).mixture_mean

    thresholds = np.linspace(1.5, 6.0, 181)
    curves = np.array([curve(threshold) for threshold in thresholds])
    assert np.abs(np.diff(curves, axis=0)).max() < 0.1
    np.testing.assert_array_equal(curve(6.0), curve(1e90))
    assert np.abs(curves).max() < 10.0


def test_all_censored_still_points_away_from_them() -> None:
    observations = observe([-1.0, -0.5], [9.0, 9.0], censored=[0, 1])
    posterior = Surrogate(BOUNDS).fit(observations).posterior(np.array([-9.0, -1.0]))
    mean = posterior.mixture_mean
    assert mean[0] < mean[1]
    assert mean[1] >= 9.0
