from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws.annealing_law import MOMENTA, AnnealingLaw, fit
from tuner_server.core.laws.curve import Curve, UnfittableError
from tuner_server.core.laws.lr_path import FloatArray, LrPath

STEPS = 2_000


def _path(kind: str, peak: float = 2e-3, warmup: int = 100) -> LrPath:
    """The planted schedules: the warm-up is at the peak already."""
    steps = np.arange(STEPS + 1)
    done = np.clip((steps - warmup) / (STEPS - warmup), 0.0, 1.0)
    weights: dict[str, FloatArray] = {
        "constant": np.ones(STEPS + 1),
        "linear": 1 - done,
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "wsd20": np.minimum(1.0, (1 - done) / 0.2),
    }
    return LrPath(peak * weights[kind])


def _planted(vectors: dict[str, Any], noise: float = 0.0, kinds: Sequence[str] = ("constant", "cosine")) -> list[Curve]:
    steps = np.arange(100.0, STEPS + 1, 100.0)
    known = vectors["annealing_law"]["planted"]
    random = np.random.default_rng(3)
    return [
        Curve(_path(kind), steps, np.array(known[f"losses_{kind}"]) * (1 + noise * random.normal(size=steps.size)))
        for kind in kinds
    ]


def test_a_planted_law_comes_back(vectors: dict[str, Any]) -> None:
    known = vectors["annealing_law"]["planted"]
    law = fit(_planted(vectors))
    found = {"L0": law.level, "A": law.amplitude, "C": law.gain, "alpha": law.power}
    assert found == pytest.approx(known["truth"], rel=1e-5)
    assert law.momentum == known["lambda"]
    assert law.annealing_known
    for kind, loss in known["final_loss_truth"].items():
        assert law.predict(_path(kind)).loss == pytest.approx(loss, rel=1e-5)


def _published(vectors: dict[str, Any]) -> list[Curve]:
    known = vectors["annealing_law"]["published_example"]
    steps = np.arange(known["steps"] + 1)
    done = np.clip((steps - known["warmup"]) / (known["steps"] - known["warmup"]), 0.0, 1.0)
    seen = np.arange(known["every"], known["steps"] + 1, known["every"], dtype=np.float64)
    return [
        Curve(LrPath(known["peak"] * weights), seen, np.array(known[f"losses_{kind}"]))
        for kind, weights in (("cosine", (1 + np.cos(np.pi * done)) / 2), ("constant", np.ones(steps.size)))
    ]


@pytest.mark.parametrize("momentum", [0.99, 0.995, 0.999])
def test_the_authors_example_has_the_published_parameters(vectors: dict[str, Any], momentum: float) -> None:
    known = vectors["annealing_law"]["published_example"]["fits_by_lambda"][str(momentum)]
    law = fit(_published(vectors), momenta=(momentum,))
    assert law.level == pytest.approx(known["L0"], abs=0.005)
    assert (law.amplitude, law.gain, law.power) == pytest.approx((known["A"], known["C"], known["alpha"]), rel=1e-3)
    assert law.r_squared == pytest.approx(known["R2"], abs=1e-5)
    assert law.objective <= known["objective"] * 1.0001


def test_the_data_choose_the_momentum_of_the_paper(vectors: dict[str, Any]) -> None:
    law = fit(_published(vectors))
    assert law.momentum == 0.999
    assert law.r_squared > 0.9995


def _real(
    name: str, real_curves: dict[str, dict[str, list[float]]], lrs: dict[str, FloatArray], **warmup: Any
) -> Curve:
    seen = np.array(real_curves[name]["step"], dtype=np.float64)
    kept = seen < lrs[name].size
    return Curve(LrPath(lrs[name], **warmup), seen[kept], np.array(real_curves[name]["loss"])[kept])


@pytest.mark.parametrize("momentum", [0.99, 0.995, 0.999])
def test_real_curves_are_met_as_closely_as_measured_before(
    vectors: dict[str, Any],
    real_curves: dict[str, dict[str, list[float]]],
    real_lrs: dict[str, FloatArray],
    momentum: float,
) -> None:
    known = vectors["real_curves"]["100M"]["annealing_law_by_lambda"][str(momentum)]
    fitted = vectors["real_curves"]["100M"]["fitted_on"]
    law = fit([_real(name, real_curves, real_lrs) for name in fitted], momenta=(momentum,))
    assert (law.amplitude, law.gain, law.power) == pytest.approx(
        [known["fit"][p] for p in ("A", "C", "alpha")], rel=0.1
    )
    for name, row in known["curves"].items():
        curve = _real(name, real_curves, real_lrs)
        error = np.abs(law.losses(curve.path, curve.steps) - curve.losses).mean()
        assert error == pytest.approx(row["mae"], rel=0.2), name


def test_real_curves_with_what_was_walked_in_the_warm_up(
    real_curves: dict[str, dict[str, list[float]]], real_lrs: dict[str, FloatArray]
) -> None:
    """The figures of docs/methods/multi-power-law.md: the momentum is the data's, and the warm-up anneals nothing."""
    told = {
        "cosine_24000": 0.0012,
        "constant_24000": 0.0009,
        "wsdcon_9": 0.0028,
        "wsdcon_3": 0.0066,
        "wsd_20000_24000": 0.0031,
        "wsdld_20000_24000": 0.0020,
        "cosine_72000": 0.0098,
        "constant_72000": 0.0037,
    }
    curves = {name: _real(name, real_curves, real_lrs, warmup=2160, warmup_walks=True) for name in told}
    law = fit([curves[name] for name in ("cosine_24000", "constant_24000", "wsdcon_9")])
    for name, curve in curves.items():
        error = np.abs(law.losses(curve.path, curve.steps) - curve.losses).mean()
        assert error == pytest.approx(told[name], rel=0.1), name


def test_the_error_covers_what_noise_does(vectors: dict[str, Any]) -> None:
    truth = vectors["annealing_law"]["planted"]["final_loss_truth"]
    law = fit(_planted(vectors, noise=3e-3))
    for kind in ("linear", "wsd20"):
        loss, error = law.predict(_path(kind))
        assert abs(loss - truth[kind]) < 3 * error
        assert 1e-4 < error < 0.05
    assert law.residual == pytest.approx(3e-3 * 2.3, rel=0.4)


def test_the_error_grows_with_what_is_extrapolated(vectors: dict[str, Any]) -> None:
    law = fit(_planted(vectors, noise=3e-3))
    longer = LrPath(np.full(20 * STEPS, 2e-3))
    assert law.predict(longer).error > 2 * law.predict(_path("constant")).error


def test_at_one_lr_the_law_knows_nothing_of_falls(vectors: dict[str, Any]) -> None:
    law = fit(_planted(vectors, kinds=("constant",)))
    assert not law.annealing_known
    assert law.gain == 0
    assert law.predict(_path("constant")).loss == pytest.approx(2.18751817, rel=1e-4)
    assert math.isfinite(law.predict(_path("constant")).error)
    assert math.isnan(law.predict(_path("linear")).error)


def test_rises_alone_tell_nothing_of_falls() -> None:
    path = LrPath(np.repeat([1e-3, 2e-3], 500))
    steps = np.arange(50.0, 1_000, 50)
    assert not fit([Curve(path, steps, 2 + path.area()[steps.astype(int)] ** -0.5)]).annealing_known


def _parameters(law: AnnealingLaw) -> tuple[float, ...]:
    return law.level, law.amplitude, law.power, law.gain


@pytest.mark.parametrize("factor", [1e-6, 0.37, 1e5])
def test_the_unit_of_the_loss_changes_nothing(vectors: dict[str, Any], factor: float) -> None:
    curves = _planted(vectors, noise=3e-3)
    scaled = [Curve(curve.path, curve.steps, factor * curve.losses) for curve in curves]
    law, other = fit(curves), fit(scaled)
    level, amplitude, power, gain = _parameters(law)
    assert _parameters(other) == pytest.approx((factor * level, factor * amplitude, power, factor * gain), rel=1e-3)
    assert other.momentum == law.momentum
    expected = factor * np.array(law.predict(_path("linear")))
    np.testing.assert_allclose(other.predict(_path("linear")), expected, rtol=1e-3)


def test_the_unit_of_the_lr_changes_nothing(vectors: dict[str, Any]) -> None:
    curves = _planted(vectors, noise=3e-3)
    scaled = [Curve(LrPath(100 * curve.path.lrs), curve.steps, curve.losses) for curve in curves]
    expected = fit(curves).predict(_path("linear"))
    np.testing.assert_allclose(fit(scaled).predict(_path("linear", peak=0.2)), expected, rtol=1e-3)


@pytest.mark.parametrize("shift", [-2.3, -10.0])
def test_losses_below_zero_are_fitted_whatever_their_zero(vectors: dict[str, Any], shift: float) -> None:
    curves = [Curve(c.path, c.steps, c.losses + shift) for c in _planted(vectors)]
    law = fit(curves)
    assert law.predict(_path("linear")).loss == pytest.approx(2.117930684 + shift, abs=1e-4)
    assert law.level == pytest.approx(2 + shift, abs=1e-3)


def test_plain_residuals_know_no_zero(vectors: dict[str, Any]) -> None:
    curves = _planted(vectors, noise=3e-3)
    law = fit(curves, logarithmic=False)
    moved = fit([Curve(c.path, c.steps, c.losses - 50) for c in curves], logarithmic=False)
    assert moved.predict(_path("linear")).loss + 50 == pytest.approx(law.predict(_path("linear")).loss, abs=1e-4)


def test_an_outlier_hardly_counts(vectors: dict[str, Any]) -> None:
    curves = _planted(vectors)
    curves[0].losses[7] *= 1.2
    assert fit(curves).predict(_path("linear")).loss == pytest.approx(2.117930684, abs=3e-3)


def test_of_many_losses_some_are_fitted(vectors: dict[str, Any]) -> None:
    truth = fit(_planted(vectors))
    path = _path("cosine")
    steps = np.arange(10.0, STEPS + 1)
    law = fit([Curve(path, steps, truth.losses(path, steps))])
    assert law.n_points <= 160
    assert law.predict(_path("linear")).loss == pytest.approx(2.117930684, rel=1e-4)


def test_level_losses_are_a_level() -> None:
    path = LrPath(np.linspace(1e-3, 0.0, 100))
    law = fit([Curve(path, np.arange(10.0, 100, 10), np.full(9, 0.7))])
    assert law.predict(path).loss == pytest.approx(0.7)


PATH = LrPath(np.full(101, 0.1))
MANY = np.arange(10.0, 100.0, 5.0)


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (Curve(PATH, MANY[:5], np.ones(5)), "5 losses are too few"),
        (Curve(PATH, MANY[:0], np.ones(0)), "0 losses are too few"),
        (Curve(PATH, MANY, np.full(MANY.size, np.nan)), "not finite"),
        (Curve(PATH, MANY, np.ones(3)), "18 steps have 3 losses"),
        (Curve(PATH, MANY + 50, np.ones(MANY.size)), "outside of its path"),
        (Curve(LrPath(np.zeros(101)), MANY, np.ones(MANY.size)), "the LR is 0"),
        (Curve(PATH, MANY, np.full(MANY.size, 1e200)), "too large or too small"),
        (Curve(LrPath(np.full(101, 1e-200)), MANY, np.ones(MANY.size)), "too large or too small"),
        (Curve(PATH, np.full(MANY.size, 50.0), np.ones(MANY.size)), "too few different"),
    ],
)
def test_what_cannot_be_fitted_is_refused(curve: Curve, reason: str) -> None:
    with pytest.raises(UnfittableError, match=reason):
        fit([curve])


def test_a_momentum_of_one_would_never_forget() -> None:
    with pytest.raises(ValueError, match="momenta: "):
        fit([Curve(PATH, MANY, np.ones(MANY.size))], momenta=(0.9, 1.0))


def test_no_curves_and_no_logarithms_are_refused() -> None:
    with pytest.raises(UnfittableError, match="0 losses"):
        fit([])
    with pytest.raises(UnfittableError, match="no logarithm"):
        fit([Curve(PATH, MANY, -np.ones(MANY.size))], logarithmic=True)


def test_rising_losses_are_fitted_without_a_gain_below_zero() -> None:
    law = fit([Curve(LrPath(np.linspace(0.1, 0.0, 101)), MANY, np.linspace(1.0, 2.0, MANY.size))])
    assert law.amplitude >= 0
    assert law.gain >= 0
    assert law.momentum in MOMENTA


@pytest.mark.parametrize("lrs", [np.full(200, 1e-40), np.full(200, 1e40), np.geomspace(1e-30, 1e30, 200)])
@pytest.mark.parametrize("losses", [np.full(60, 1e-300), np.geomspace(1e40, 1e-40, 60), np.r_[np.ones(59), 1e30]])
def test_odd_numbers_make_a_law_all_the_same(lrs: FloatArray, losses: FloatArray) -> None:
    law = fit([Curve(LrPath(lrs), np.arange(12.0, 192.0, 3.0), losses)])
    assert math.isfinite(law.predict(LrPath(lrs)).loss)
