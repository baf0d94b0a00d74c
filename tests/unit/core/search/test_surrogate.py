"""The surrogate against a textbook Gaussian process, and what it makes of censored and of odd observations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gpytorch
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tuner_server.core.search import hyperparameters
from tuner_server.core.search.censoring import SOFTNESS, propagate
from tuner_server.core.search.elimination import Elimination
from tuner_server.core.search.kernel import matern, rate
from tuner_server.core.search.surrogate import FloatArray, Observations, Posterior, Surrogate

BOUNDS = (math.log(1e-4), 0.0)
GRID = np.linspace(*BOUNDS, 41)


def observe(
    log_lr: Sequence[float] | FloatArray,
    loss: Sequence[float] | FloatArray,
    noise_var: float = 1e-4,
    censored: Sequence[int] = (),
) -> Observations:
    mask = np.zeros(len(log_lr), dtype=np.bool_)
    mask[list(censored)] = True
    return Observations(
        np.asarray(log_lr, dtype=np.float64),
        np.asarray(loss, dtype=np.float64),
        np.full(len(log_lr), noise_var),
        mask,
    )


def wave(n: int, seed: int = 0) -> Observations:
    """A curve with as much above its median as below: nothing is winsorised."""
    rng = np.random.default_rng(seed)
    log_lr = rng.uniform(*BOUNDS, size=n)
    return observe(log_lr, 2.0 + 0.5 * np.sin(log_lr) + 0.02 * rng.normal(size=n))


def textbook_matern(a: FloatArray, b: FloatArray, lengthscale: float) -> FloatArray:
    """Rasmussen and Williams (2006), equation 4.17."""
    d = math.sqrt(5.0) * np.abs(a[:, None] - b) / lengthscale
    value: FloatArray = (1.0 + d + d**2 / 3.0) * np.exp(-d)
    return value


def textbook_gp(
    x: FloatArray,
    y: FloatArray,
    noise_var: FloatArray,
    query: FloatArray,
    setting: tuple[float, float, float],
) -> tuple[FloatArray, FloatArray, float]:
    """Mean, variance and log marginal likelihood: Rasmussen and Williams (2006), algorithm 2.1."""
    lengthscale, output_scale, noise_scale = setting
    k = output_scale**2 * textbook_matern(x, x, lengthscale)
    chol = np.linalg.cholesky(k + np.diag(noise_var + noise_scale**2))
    alpha = np.linalg.solve(chol.T, np.linalg.solve(chol, y))
    cross = output_scale**2 * textbook_matern(x, query, lengthscale)
    v = np.linalg.solve(chol, cross)
    lml = -0.5 * y @ alpha - np.log(np.diag(chol)).sum() - 0.5 * len(x) * math.log(2 * math.pi)
    return cross.T @ alpha, output_scale**2 - (v**2).sum(axis=0), float(lml)


@pytest.fixture
def single_setting(monkeypatch: pytest.MonkeyPatch) -> tuple[float, float, float]:
    """A grid of one: lengthscale, output scale, noise scale."""
    values = (0.35, 1.4, 0.1)
    one = hyperparameters.Grid.of(*(np.array([value]) for value in values))
    monkeypatch.setattr(hyperparameters, "grid", lambda: one)
    return values


def normalised(log_lr: FloatArray) -> FloatArray:
    value: FloatArray = (log_lr - BOUNDS[0]) / (BOUNDS[1] - BOUNDS[0])
    return value


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
            float(grid.lengthscales[grid.lengthscale_index[i]]),
            math.sqrt(float(grid.output_variance[i])),
            math.sqrt(float(grid.noise_variance[i])),
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


# --- censored observations


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
    work = Elimination(3, 1)
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
