"""The convex bound: its terms, best LRs, what an LR is for another shape, and how a run is made longer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from lrpilot import schedules
from lrpilot.schedules import Shape

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "data" / "methods" / "schedules.json").read_text("utf-8")
)["convex_bound"]


def named(name: str) -> Shape:
    way, _, share = name.partition("_")
    if not share:
        return Shape(way) if way not in ("wsd", "sqrt") else named(f"{way}_0.2")
    return schedules.wsd(float(share), "one_minus_sqrt" if way == "sqrt" else "linear")


@pytest.mark.parametrize("name", VECTOR["schedules"])
def test_the_best_lr_and_bound_of_a_shape(name: str) -> None:
    shape, n_steps = named(name), VECTOR["T"]
    terms = schedules.terms([shape.at(step, n_steps) for step in range(n_steps)])
    wanted = VECTOR["schedules"][name]
    assert terms.best_base_lr == pytest.approx(wanted["best_base_lr"], rel=1e-7)
    assert terms.best_bound == pytest.approx(wanted["bound"], rel=1e-7)
    best = terms.best_base_lr
    scaled = schedules.terms([best * shape.at(step, n_steps) for step in range(n_steps)])
    assert scaled.bound == pytest.approx(wanted["bound"], rel=1e-7)


def test_a_constant_lr_has_a_closed_form() -> None:
    terms = schedules.terms([0.5] * 10)
    harmonic = math.fsum(1 / k for k in range(1, 10))
    assert terms == pytest.approx([1 / (2 * 0.5 * 10), 0.25, 0.25 * harmonic], rel=1e-12)
    assert terms == pytest.approx(VECTOR["terms_constant_0.5_T10"], rel=1e-9)


def test_gradient_norms_may_vary() -> None:
    vector = VECTOR["varying_norms"]
    assert schedules.terms(vector["eta"], vector["G"]) == pytest.approx(vector["terms"], rel=1e-9)
    with pytest.raises(ValueError, match="norms"):
        schedules.terms([0.1, 0.1], [1.0])
    with pytest.raises(ValueError, match="0 steps"):
        schedules.terms([0.0])


@pytest.mark.parametrize("horizon", ["100", "1600"])
def test_the_best_lr_falls_as_the_root_of_the_steps(horizon: str) -> None:
    for name, wanted in VECTOR["best_base_lr_by_horizon"][horizon].items():
        assert schedules.best_base_lr(named(name), int(horizon)) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("share", VECTOR["best_linear_over_best_cooldown_lr"])
def test_an_lr_goes_from_one_shape_to_another_by_the_ratio_of_their_best(share: str) -> None:
    ratios = VECTOR["best_linear_over_best_cooldown_lr"][share]
    for way, cooldown in (("wsd", "linear"), ("sqrt", "one_minus_sqrt")):
        transferred = schedules.transfer(0.3, f"wsd/{cooldown}({share})", "linear")
        assert transferred == pytest.approx(0.3 * ratios["400"][way], rel=1e-4)
        assert transferred == pytest.approx(0.3 * ratios["6400"][way], rel=0.015), "hardly depends on the steps"


def test_the_table_of_the_paper_s_facts() -> None:
    assert schedules.transfer(1.0, "cosine", "linear") == pytest.approx(1.03, abs=0.005)
    assert schedules.transfer(1.0, "rex", "linear") == pytest.approx(1.24, abs=0.005)
    assert schedules.transfer(1.0, "linear", "wsd(0.2)") == pytest.approx(0.5, abs=0.02), "about half"
    assert schedules.transfer(0.1, "rex", "rex") == 0.1
    there_and_back = schedules.transfer(schedules.transfer(0.1, "rex", "one_cycle"), "one_cycle", "rex")
    assert there_and_back == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(("factor", "tolerance"), [("1.5", 0.01), ("2", 0.01)])
def test_how_a_run_is_made_longer(factor: str, tolerance: float) -> None:
    found = schedules.extension(float(factor), total_steps=400)
    assert found.lr_factor == pytest.approx(VECTOR["horizon_extension_wssd_rho_(T1=4000,20%)"][factor], abs=tolerance)
    wanted = VECTOR["horizon_extension_cooldown_share_(T1=4000,20%)"][factor]
    assert found.cooldown == pytest.approx(wanted, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("factor", ["1.5", "2", "3", "4"])
def test_how_a_run_is_made_longer_at_the_length_of_the_paper(factor: str) -> None:
    found = schedules.extension(float(factor), total_steps=4000)
    assert found.lr_factor == pytest.approx(VECTOR["horizon_extension_wssd_rho_(T1=4000,20%)"][factor], abs=1e-4)
    wanted = VECTOR["horizon_extension_cooldown_share_(T1=4000,20%)"][factor]
    assert found.cooldown == pytest.approx(wanted, abs=1.1e-3)


def test_a_run_that_is_not_made_longer_goes_on_as_planned() -> None:
    assert schedules.extension(1.0, total_steps=400) == pytest.approx((1.0, 0.2), abs=1e-4)
    with pytest.raises(ValueError, match="extension"):
        schedules.extension(0.5)


def test_wsd_wants_half_the_lr_of_a_linear_decay_and_gains_by_a_longer_cooldown() -> None:
    """Both are facts of real runs that the paper says the bound shows."""
    wsd = [schedules.terms([schedules.wsd(share).at(step, 400) for step in range(400)]) for share in (0.1, 0.2, 0.4)]
    assert wsd[1].best_base_lr / schedules.best_base_lr(Shape.LINEAR) == pytest.approx(0.5, abs=0.05)
    assert [found.best_bound for found in wsd] == sorted((found.best_bound for found in wsd), reverse=True)
    assert [found.best_base_lr for found in wsd] == sorted(found.best_base_lr for found in wsd)


def published_wsd_bound(total: int, first: int) -> float:
    """The paper's closed form, which bounds the sums of the bound once more."""

    def harmonic(n: int) -> float:
        return math.fsum(1 / i for i in range(1, n + 1))

    rising = (
        2 / 3
        + (total + 2 * first) / (3 * (total + first))
        + harmonic(total + first - 2)
        - harmonic(total - first + 1)
        - (total - first) * (first - 1) / (3 * (total - first + 2) * (total + first))
        + 1 / (total - first) ** 2
        + harmonic(total - first - 1) / (total - first + 1)
    )
    return math.sqrt(4 / (total + first) * rising)


@pytest.mark.parametrize("n_steps", [50, 400])
def test_wsd_has_a_closed_form_below_the_published_one(n_steps: int) -> None:
    for first in (1, 2, n_steps // 2, 4 * n_steps // 5, n_steps - 2):
        n_fall = n_steps + 1 - first
        lrs = [1.0] * (first - 1) + [1 - step / n_fall for step in range(n_fall)]
        found = schedules.wsd_bound(n_steps, first)
        assert found == pytest.approx(schedules.terms(lrs).best_bound, rel=1e-12)
        assert 0.998 * found < published_wsd_bound(n_steps, first) < 1.4 * found
    assert schedules.wsd_bound(n_steps, 9, norm=2.0, distance=3.0) == pytest.approx(6 * schedules.wsd_bound(n_steps, 9))


def test_the_closed_form_is_that_of_the_vectors() -> None:
    known = VECTOR["schedules"]
    assert schedules.wsd_bound(400, 1) == pytest.approx(known["linear"]["bound"], rel=1e-6)
    assert schedules.wsd_bound(400, 400) == pytest.approx(known["constant"]["bound"], rel=1e-6)
    assert schedules.wsd_bound(400, 321) == pytest.approx(known["wsd_0.2"]["bound"], rel=1e-6)


@pytest.mark.parametrize("first", [0, 11])
def test_a_cooldown_begins_within_the_run(first: int) -> None:
    with pytest.raises(ValueError, match="cooldown_from: "):
        schedules.wsd_bound(10, first)
