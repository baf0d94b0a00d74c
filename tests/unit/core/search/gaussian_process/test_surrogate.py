"""The surrogate against a textbook Gaussian process, and what it makes of odd observations."""

from __future__ import annotations

import dataclasses
import math

import gpytorch
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from tests.support.observations import BOUNDS, GRID, normalised, observe, textbook_gp, wave
from tuner_server.core.search.gaussian_process import hyperparameters
from tuner_server.core.search.gaussian_process.kernel import matern, rate
from tuner_server.core.search.gaussian_process.posterior import FloatArray, Posterior
from tuner_server.core.search.gaussian_process.surrogate import Observations, Surrogate


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_posterior_is_the_textbook_one(n: int, single_setting: tuple[float, float, float]) -> None:
    observations = wave(n)
    fitted = Surrogate(BOUNDS).fit(observations)
    mean, variance, _ = textbook_gp(
        normalised(observations.log_lr),
        (observations.loss - fitted.centre) / fitted.scale,
        observations.noise_var / fitted.scale**2,
        normalised(GRID),
        single_setting,
    )
    posterior = fitted.posterior(GRID)
    np.testing.assert_allclose(posterior.mean[0], fitted.centre + fitted.scale * mean, rtol=1e-9)
    np.testing.assert_allclose(posterior.variance[0], fitted.scale**2 * variance, rtol=1e-7)


def test_mixture_weights_are_likelihood_times_prior_and_moments_add_up() -> None:
    observations = wave(8)
    fitted = Surrogate(BOUNDS).fit(observations)
    grid = hyperparameters.grid()
    log_weights, means, variances = [], [], []
    for i in range(len(grid)):
        setting = (
            float(grid.lengthscales[grid.membership[:, i].argmax()]),
            math.sqrt(float(grid.output_variance[i])),
            math.sqrt(float(grid.variance[i] - grid.output_variance[i])),
        )
        mean, variance, lml = textbook_gp(
            normalised(observations.log_lr),
            (observations.loss - fitted.centre) / fitted.scale,
            observations.noise_var / fitted.scale**2,
            normalised(GRID),
            setting,
        )
        log_weights.append(lml + float(grid.log_prior[i]))
        means.append(fitted.centre + fitted.scale * mean)
        variances.append(fitted.scale**2 * variance)
    weight = np.exp(np.array(log_weights) - max(log_weights))
    weight /= weight.sum()

    heaviest = np.sort(weight)[::-1][: len(fitted.weight)]
    np.testing.assert_allclose(np.sort(fitted.weight)[::-1], heaviest / heaviest.sum(), rtol=1e-6)
    assert heaviest.sum() > 0.9
    # Against all the settings: what was left out must not matter.
    mixture_mean = weight @ np.array(means)
    mixture_variance = weight @ np.array(variances) + weight @ (np.array(means) - mixture_mean) ** 2
    posterior = fitted.posterior(GRID)
    sd = np.sqrt(mixture_variance)
    assert (np.abs(posterior.mixture_mean - mixture_mean) < 0.1 * sd).all()
    np.testing.assert_allclose(np.sqrt(posterior.mixture_variance), sd, rtol=0.2)


@pytest.mark.parametrize("seed", range(20))
def test_the_heaviest_settings_are_kept_and_of_equal_ones_the_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = dataclasses.replace(hyperparameters.grid(), log_prior=np.zeros(len(hyperparameters.grid())))
    log_likelihood = rng.choice(rng.normal(scale=rng.uniform(0.1, 6.0), size=9), size=len(grid))
    weight, kept = grid.heaviest(log_likelihood)
    assert weight.sum() == pytest.approx(1.0)
    by_weight = np.argsort(-log_likelihood, kind="stable")
    np.testing.assert_array_equal(kept, np.sort(by_weight[: len(kept)]))
    share = special.softmax(log_likelihood)
    assert len(kept) == hyperparameters.MAX_KEPT or share[kept].sum() > 0.99 - 1e-9
    assert share[by_weight[: len(kept) - 1]].sum() < 0.99 + 1e-9


def test_mixture_variance_counts_the_disagreement_of_the_settings() -> None:
    posterior = Posterior(np.array([[0.0], [4.0]]), np.array([[1.0], [3.0]]), np.array([0.25, 0.75]))
    assert posterior.mixture_mean == pytest.approx([3.0])
    assert posterior.mixture_variance == pytest.approx([0.25 * (1 + 9) + 0.75 * (3 + 1)])


def test_kernel_is_gpytorchs() -> None:
    x = torch.linspace(-0.3, 1.2, 9, dtype=torch.float64)
    lengthscale = torch.tensor([0.1, 0.7], dtype=torch.float64)
    kernel = gpytorch.kernels.MaternKernel(nu=2.5, batch_shape=torch.Size([2])).double()
    kernel.lengthscale = lengthscale[:, None, None]
    with torch.no_grad():
        expected = kernel(x[:, None]).to_dense()
    distance = (x[:, None] - x).abs().numpy()
    got = matern(distance * rate(lengthscale.numpy())[:, None, None])
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6, atol=1e-7)


def test_posterior_is_gpytorchs(single_setting: tuple[float, float, float]) -> None:
    """An exact GP of GPyTorch's, with the noise of each observation given."""
    lengthscale, output_scale, noise_scale = single_setting
    observations = wave(9)
    fitted = Surrogate(BOUNDS).fit(observations)
    x = torch.from_numpy(normalised(observations.log_lr))
    y = torch.from_numpy((observations.loss - fitted.centre) / fitted.scale)
    noise = torch.from_numpy(observations.noise_var / fitted.scale**2 + noise_scale**2)

    class Exact(gpytorch.models.ExactGP):  # type: ignore[misc]  # GPyTorch has no types
        def __init__(self) -> None:
            super().__init__(x, y, gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise))
            self.mean = gpytorch.means.ZeroMean()
            self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5))

        def forward(self, at: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
            return gpytorch.distributions.MultivariateNormal(self.mean(at), self.kernel(at))

    model = Exact().double().eval()
    model.kernel.outputscale = output_scale**2
    model.kernel.base_kernel.lengthscale = lengthscale
    with torch.no_grad():
        expected = model(torch.from_numpy(normalised(GRID)))
    posterior = fitted.posterior(GRID)
    np.testing.assert_allclose(
        posterior.mean[0], fitted.centre + fitted.scale * expected.mean.numpy(), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(posterior.variance[0], fitted.scale**2 * expected.variance.numpy(), rtol=1e-4)


def test_without_observations_it_is_the_prior() -> None:
    posterior = Surrogate(BOUNDS).fit(observe([], [])).posterior(GRID)
    assert posterior.weight.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(posterior.mixture_mean, 0.0)
    assert np.ptp(posterior.mixture_variance) == pytest.approx(0.0)


def test_noisier_observations_weigh_less() -> None:
    log_lr, loss = [-8.0, -4.0, -4.0, -1.0], [3.0, 1.8, 2.2, 3.0]
    observations = observe(log_lr, loss)
    noise_var = np.array([1e-4, 1e-4, 0.25, 1e-4])
    noisy = Observations(observations.log_lr, observations.loss, noise_var, observations.censored)
    at = np.array([-4.0])
    even = Surrogate(BOUNDS).fit(observations).posterior(at).mixture_mean[0]
    uneven = Surrogate(BOUNDS).fit(noisy).posterior(at).mixture_mean[0]
    assert uneven < even - 0.05


def test_losses_in_other_units_give_the_same_curve() -> None:
    observations = wave(9)
    rescaled = Observations(
        observations.log_lr,
        50.0 + 1000.0 * observations.loss,
        1e6 * observations.noise_var,
        observations.censored,
    )
    one = Surrogate(BOUNDS).fit(observations).posterior(GRID)
    other = Surrogate(BOUNDS).fit(rescaled).posterior(GRID)
    np.testing.assert_allclose(other.mixture_mean, 50.0 + 1000.0 * one.mixture_mean, rtol=1e-7)
    np.testing.assert_allclose(other.mixture_variance, 1e6 * one.mixture_variance, rtol=1e-7)


def test_a_cliff_leaves_the_rest_of_the_curve() -> None:
    log_lr = np.linspace(-9.0, -0.5, 9)
    loss = 2.0 - 0.15 * (log_lr + 9.0)
    loss[-3:] = 80.0
    posterior = Surrogate(BOUNDS).fit(observe(log_lr, loss)).posterior(log_lr)
    np.testing.assert_allclose(posterior.mixture_mean[:-4], loss[:-4], atol=0.06)
    assert posterior.mixture_mean[:-3].max() < posterior.mixture_mean[-3:].min()


def test_a_worse_loss_stays_worse_where_all_others_are_equal() -> None:
    observations = observe([-8.0, -6.0, -4.0, -1.0], [2.0, 2.0, 2.0, 3.0], noise_var=0.0)
    mean = Surrogate(BOUNDS).fit(observations).posterior(observations.log_lr).mixture_mean
    assert mean[-1] > mean[:-1].max() + 0.02


def test_prior_mean_holds_where_nothing_was_seen() -> None:
    def prior(log_lr: FloatArray) -> FloatArray:
        value: FloatArray = 0.3 * (log_lr + 5.0) ** 2
        return value

    log_lr = np.array([-5.5, -5.0, -4.5])
    observations = observe(log_lr, 7.0 + prior(log_lr))
    far = np.array([-1.0])
    with_prior = Surrogate(BOUNDS, prior).fit(observations).posterior(far).mixture_mean[0]
    assert with_prior == pytest.approx(7.0 + prior(far)[0], abs=0.05)


# --- robustness

finite = st.floats(-1e100, 1e100)
plain = st.floats(-10.0, 10.0)


@st.composite
def any_observations(draw: st.DrawFn) -> Observations:
    n = draw(st.integers(0, 20))
    log_lrs = st.one_of(st.floats(*BOUNDS), st.sampled_from([-9.0, -4.0, -4.0 + 1e-12, 0.0]))
    rows = draw(
        st.lists(
            st.tuples(
                log_lrs,
                st.one_of(plain, finite, st.sampled_from([0.0, 2.0])),
                st.one_of(st.floats(0.0, 1.0), st.floats(0.0, 1e200), st.just(0.0)),
                st.booleans(),
            ),
            min_size=n,
            max_size=n,
        )
    )
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return Observations(
        np.array(columns[0], dtype=np.float64),
        np.array(columns[1], dtype=np.float64),
        np.array(columns[2], dtype=np.float64),
        np.array(columns[3], dtype=np.bool_),
    )


@given(any_observations())
@settings(max_examples=150, deadline=None)
def test_any_finite_observations_give_a_finite_posterior(observations: Observations) -> None:
    posterior = Surrogate(BOUNDS).fit(observations).posterior(GRID)
    assert posterior.weight.sum() == pytest.approx(1.0)
    assert np.isfinite(posterior.mixture_mean).all()
    variance = posterior.mixture_variance
    assert np.isfinite(variance).all()
    assert (variance > 0).all()


def test_constant_and_duplicate_observations() -> None:
    posterior = Surrogate(BOUNDS).fit(observe([-4.0] * 5, [2.5] * 5, noise_var=0.0)).posterior(GRID)
    np.testing.assert_allclose(posterior.mixture_mean, 2.5, rtol=1e-6)


def test_same_input_gives_the_same_bits() -> None:
    observations = observe([-8.0, -5.0, -3.5, -1.0], [2.9, 2.2, 2.0, 9.0], censored=[3])
    first, second = (Surrogate(BOUNDS).fit(observations).posterior(GRID) for _ in range(2))
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.variance, second.variance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": np.zeros(3)}, "shape"),
        ({"log_lr": np.zeros((2, 1))}, "one dimension"),
        ({"log_lr": np.array([0.0, np.nan])}, "log_lr must be finite"),
        ({"loss": np.array([0.0, np.inf])}, "losses must be finite"),
        ({"loss": np.array([0.0, np.nan])}, "losses must be finite"),
        ({"noise_var": np.array([0.0, -1.0])}, "noise variances"),
        ({"noise_var": np.array([0.0, np.nan])}, "noise variances"),
    ],
)
def test_bad_observations_are_refused(change: dict[str, FloatArray], message: str) -> None:
    good = {
        "log_lr": np.zeros(2),
        "loss": np.zeros(2),
        "noise_var": np.zeros(2),
    }
    with pytest.raises(ValueError, match=message):
        Observations(**(good | change), censored=np.zeros(2, dtype=np.bool_))


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (1.0, 0.0), (math.nan, 1.0), (-math.inf, 0.0)])
def test_bad_bounds_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="bounds"):
        Surrogate(bounds)
