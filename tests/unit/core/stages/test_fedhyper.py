"""The factors of FedHyper are those that its formulas give for a series of global updates."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from tuner_server.core.stages.fedhyper import BOUNDS, Variant, added, momentum_weight, multiplied

VECTORS = json.loads((Path(__file__).parents[3] / "data" / "methods" / "fedhyper.json").read_text("utf-8"))
UPDATES = np.array(VECTORS["global_updates"])
PRODUCTS = [float(now @ before) for before, now in itertools.pairwise(UPDATES)]


def factors(bounds: tuple[float, float]) -> list[float]:
    found = [1.0]
    for product in PRODUCTS:
        found.append(added(found[-1], product, bounds))
    return found


def test_the_global_step_is_that_of_the_code_and_with_other_bounds_that_of_the_paper() -> None:
    assert factors(Variant.G.bounds) == pytest.approx(VECTORS["G_authors_code_rates"], rel=1e-9)
    assert factors((1 / 3, 3.0)) == pytest.approx(VECTORS["G_paper_form_(gamma=3)"], rel=1e-9)


def test_the_local_lr_of_the_server_is_that_of_the_formula() -> None:
    lrs = [0.01 * factor for factor in factors(Variant.SL.bounds)]
    assert lrs == pytest.approx(VECTORS["SL_authors_code_local_lr_(lr=0.01)"], rel=1e-9)


def test_the_local_lr_of_a_client_is_that_of_the_code() -> None:
    own = VECTORS["CL_authors_code"]
    whole, steps = np.array(own["previous_global_update"]), np.array(own["local_steps"])
    before = [whole, *steps[:-1]]
    found, expected = [1.0], own["multiplier_after_each_step_(first_entry=start)"]
    for step, last in zip(steps, before, strict=True):
        products = [float(step @ whole)], [float(step @ last)]
        found.append(multiplied(found[-1], *products, own["clients_per_round"], Variant.CL.bounds))
    assert found == pytest.approx(expected, rel=1e-9)
    all_products = [float(step @ whole) for step in steps], [float(a @ b) for a, b in zip(steps, before, strict=True)]
    assert multiplied(1.0, *all_products, own["clients_per_round"], Variant.CL.bounds) == found[-1]


def test_momentum_has_a_part_only_where_the_step_is_not_one() -> None:
    assert momentum_weight(1.0) == 0.0
    assert momentum_weight(2.0) == pytest.approx(0.9)
    assert momentum_weight(0.8) == pytest.approx(-0.18)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_leaves_the_factor(odd: float) -> None:
    assert added(1.5, odd, (0.2, 5.0)) == 1.5
    assert multiplied(1.5, [odd, 0.0], [0.0, 0.05], 10, (0.1, 10.0)) == pytest.approx(1.575)


@pytest.mark.parametrize("variant", Variant)
def test_factors_stay_in_their_bounds_and_cl_grows_by_a_tenth_a_step(variant: Variant) -> None:
    low, high = BOUNDS[variant]
    assert (added(1.0, 1e9, (low, high)), added(1.0, -1e9, (low, high))) == (high, low)
    assert multiplied(1.0, [1e9], [1e9], 10, (low, high)) == 1.1
    assert multiplied(1.0, [1e9] * 200, [1e9] * 200, 10, (low, high)) == high
    assert multiplied(1.0, [0.0] * 9, [-0.9] * 9, 10, (low, high)) == low
