"""The LR and Adam's constants for another batch size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lrpilot.schedules import BatchScaling, lr_factor, scaled_adam

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "data" / "methods" / "schedules.json").read_text("utf-8")
)["batch_size"]


@pytest.mark.parametrize("kappa", VECTOR)
def test_the_rules(kappa: str) -> None:
    wanted = VECTOR[kappa]
    assert 0.1 * lr_factor(float(kappa), "linear") == pytest.approx(wanted["sgd_linear"], rel=1e-9)
    assert 0.1 * lr_factor(float(kappa), BatchScaling.SQRT) == pytest.approx(wanted["sgd_sqrt"], rel=1e-9)
    assert lr_factor(float(kappa), "none") == 1
    adam = wanted["adam_sqrt"]
    scaled = scaled_adam(float(kappa), 0.9, 0.999, 1e-8)
    assert scaled == pytest.approx((adam["beta1"], adam["beta2"], adam["eps"]), rel=1e-9)
    assert 0.1 * lr_factor(float(kappa)) == pytest.approx(adam["lr"], rel=1e-9)


def test_there_and_back() -> None:
    scaled = scaled_adam(4.0, 0.9, 0.999, 1e-8)
    assert scaled_adam(0.25, *scaled) == pytest.approx((0.9, 0.999, 1e-8), rel=1e-12)


@pytest.mark.parametrize(("kappa", "name"), [(10.0, "beta1"), (11.0, "beta1"), (1e6, "beta1")])
def test_a_batch_that_leaves_no_memory_is_refused(kappa: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 0.9.*less than 10"):
        scaled_adam(kappa, 0.9, 0.999, 1e-8)


@pytest.mark.parametrize("kappa", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_ratio_is_refused(kappa: float) -> None:
    with pytest.raises(ValueError, match="not above 0"):
        lr_factor(kappa)
