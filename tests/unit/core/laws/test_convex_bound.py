from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tuner_server.core.laws.convex_bound import best_base, omega, transfer_factor, wsd_bound
from tuner_server.core.laws.lr_path import FloatArray


def weights(kind: str, n_steps: int, share: float = 0.2) -> FloatArray:
    """A schedule of one step more, whose last LR is zero."""
    done = np.arange(n_steps) / n_steps
    whole: dict[str, FloatArray] = {
        "constant": np.ones(n_steps),
        "linear": 1 - done,
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "rex": (1 - done) / (1 - done / 2),
    }
    if kind in whole:
        return whole[kind]
    n = int(share * (n_steps + 1))
    part = (np.arange(n) + 1) / n
    fall = 1 - part if kind == "wsd" else 1 - np.sqrt(part)
    return np.concatenate([np.ones(n_steps + 1 - n), fall])[:n_steps]


def test_every_schedule_has_its_best_lr_and_bound(vectors: dict[str, Any]) -> None:
    for name, known in vectors["convex_bound"]["schedules"].items():
        kind, _, share = name.partition("_")
        found = best_base(weights(kind, 400, float(share or 0)))
        assert found.lr == pytest.approx(known["best_base_lr"], rel=1e-6), name
        assert found.bound == pytest.approx(known["bound"], rel=1e-6), name


def test_best_lrs_by_horizon(vectors: dict[str, Any]) -> None:
    for n_steps, known in vectors["convex_bound"]["best_base_lr_by_horizon"].items():
        found = {kind: best_base(weights(kind, int(n_steps))).lr for kind in known}
        assert found == pytest.approx(known, rel=1e-6)


def test_a_constant_schedule_has_a_closed_form(vectors: dict[str, Any]) -> None:
    terms = omega(np.full(10, 0.5))
    harmonic = math.fsum(1 / i for i in range(1, 10))
    assert terms == pytest.approx((1 / (2 * 0.5 * 10), 0.25, 0.25 * harmonic), rel=1e-12)
    assert terms == pytest.approx(vectors["convex_bound"]["terms_constant_0.5_T10"], rel=1e-9)
    assert terms.bound == pytest.approx(sum(terms))


def test_gradient_norms_may_vary(vectors: dict[str, Any]) -> None:
    known = vectors["convex_bound"]["varying_norms"]
    assert omega(known["eta"], known["G"]) == pytest.approx(known["terms"], rel=1e-9)


def test_the_best_base_is_a_minimum_and_scales() -> None:
    schedule = weights("cosine", 100)
    best = best_base(schedule, norms=3.0, distance=2.0)
    assert omega(best.lr * schedule, 3.0, 2.0).bound == pytest.approx(best.bound)
    for factor in (0.9, 1.1):
        assert omega(factor * best.lr * schedule, 3.0, 2.0).bound > best.bound
    assert best.bound == pytest.approx(6 * best_base(schedule).bound)


@pytest.mark.parametrize("n_steps", [400, 1600])
def test_lrs_transfer_between_shapes(vectors: dict[str, Any], n_steps: int) -> None:
    for share, row in vectors["convex_bound"]["best_linear_over_best_cooldown_lr"].items():
        for kind, ratio in row[str(n_steps)].items():
            factor = transfer_factor(weights(kind, n_steps, float(share)), weights("linear", n_steps))
            assert factor == pytest.approx(ratio, rel=1e-4)


def test_wsd_wants_half_the_lr_of_a_linear_decay_and_gains_by_a_longer_cooldown() -> None:
    """Both are facts of real runs that the paper says the bound shows."""
    wsd = [best_base(weights("wsd", 400, share)) for share in (0.1, 0.2, 0.4)]
    assert wsd[1].lr / best_base(weights("linear", 400)).lr == pytest.approx(0.5, abs=0.05)
    assert [found.bound for found in wsd] == sorted((found.bound for found in wsd), reverse=True)
    assert [found.lr for found in wsd] == sorted(found.lr for found in wsd)


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
        fall = 1 - np.arange(n_steps + 1 - first) / (n_steps + 1 - first)
        found = wsd_bound(n_steps, first)
        assert found == pytest.approx(best_base(np.concatenate([np.ones(first - 1), fall])).bound, rel=1e-12)
        assert 0.998 * found < published_wsd_bound(n_steps, first) < 1.4 * found
    assert wsd_bound(n_steps, 9, norm=2.0, distance=3.0) == pytest.approx(6 * wsd_bound(n_steps, 9))


def test_the_closed_form_is_that_of_the_vectors(vectors: dict[str, Any]) -> None:
    known = vectors["convex_bound"]["schedules"]
    assert wsd_bound(400, 1) == pytest.approx(known["linear"]["bound"], rel=1e-6)
    assert wsd_bound(400, 400) == pytest.approx(known["constant"]["bound"], rel=1e-6)
    assert wsd_bound(400, 321) == pytest.approx(known["wsd_0.2"]["bound"], rel=1e-6)


@pytest.mark.parametrize("lrs", [[], [0.0, 0.0], [-1.0, 1.0], [math.nan], [math.inf]])
def test_a_schedule_has_lrs(lrs: list[float]) -> None:
    with pytest.raises(ValueError, match="lrs: "):
        omega(lrs)


def test_zeros_at_the_end_move_nothing_and_one_step_has_no_last_term() -> None:
    assert omega([1.0, 0.5, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]) == omega([1.0, 0.5], [1.0, 2.0])
    assert omega([0.5]) == (1.0, 0.25, 0.0)


@pytest.mark.parametrize("first", [0, 11])
def test_a_cooldown_begins_within_the_run(first: int) -> None:
    with pytest.raises(ValueError, match="cooldown_from: "):
        wsd_bound(10, first)
