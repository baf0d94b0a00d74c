from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws.lr_path import FloatArray
from tuner_server.core.laws.multi_power_law import PUBLISHED, MultiPowerLaw


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_parameters_predict_what_they_should(
    vectors: dict[str, Any], real_lrs: dict[str, FloatArray], model: str
) -> None:
    assert PUBLISHED[model] == pytest.approx(vectors["multi_power_law"]["params"][model])
    for schedule, known in vectors["multi_power_law"]["predicted_loss"][model].items():
        found = PUBLISHED[model].losses(real_lrs[schedule], np.array([int(step) for step in known]))
        np.testing.assert_allclose(found, list(known.values()), rtol=1e-8, err_msg=schedule)


def test_real_curves_are_met_as_closely_as_measured_before(
    vectors: dict[str, Any], real_lrs: dict[str, FloatArray], real_curves: dict[str, dict[str, list[float]]]
) -> None:
    for schedule, row in vectors["real_curves"]["100M"]["multi_power_law_with_published_params"].items():
        steps, losses = (np.array(real_curves[schedule][name]) for name in ("step", "loss"))
        kept = steps < real_lrs[schedule].size
        error = np.abs(PUBLISHED["100M"].losses(real_lrs[schedule], steps[kept]) - losses[kept]).mean()
        assert error == pytest.approx(row["mae"], rel=0.02), schedule


def test_a_decay_ends_lower_than_no_decay_and_too_early_a_one_higher(real_lrs: dict[str, FloatArray]) -> None:
    last = {name: float(PUBLISHED["400M"].losses(lrs, np.array([lrs.size - 1]))[0]) for name, lrs in real_lrs.items()}
    assert last["wsd_20000_24000"] < last["cosine_24000"] < last["constant_24000"]


def test_at_one_lr_it_is_a_power_of_the_walk() -> None:
    law = MultiPowerLaw(2.0, 0.5, 0.5, 300.0, 2.0, 0.6, 0.6)
    assert law.losses(np.full(101, 0.01), np.array([99])) == pytest.approx(2.5)


def test_a_fall_to_zero_is_a_number() -> None:
    law = PUBLISHED["25M"]
    assert np.isfinite(law.losses(np.linspace(3e-4, 0.0, 50), np.array([10, 49]))).all()
