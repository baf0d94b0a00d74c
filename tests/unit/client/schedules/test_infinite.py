"""The infinite schedule: its phases, an annealing from any step, and what follows on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lrpilot.schedules import InfiniteSchedule

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "data" / "methods" / "schedules.json").read_text("utf-8")
)["infinite"]


def schedule(**options: Any) -> InfiniteSchedule:
    return InfiniteSchedule(
        VECTOR["W"], VECTOR["cooldown_steps"], constant=VECTOR["const"], floor=VECTOR["lo"], **options
    )


def test_with_a_cosine_cooldown_and_an_exponential_annealing() -> None:
    infinite = schedule()
    infinite.anneal(VECTOR["anneal_start"], VECTOR["anneal_steps"])
    assert [infinite.weight(t) for t in VECTOR["t"]] == pytest.approx(VECTOR["cosine_cooldown"], rel=1e-9)


def test_with_an_inverse_square_root_cooldown_and_no_annealing() -> None:
    infinite = schedule(cooling="isqrt")
    weights = [infinite.weight(t) for t in VECTOR["t"]]
    assert weights == pytest.approx(VECTOR["isqrt_cooldown_no_anneal"], rel=1e-9)


@pytest.mark.parametrize(
    ("annealing", "middle"),
    [("exponential", 0.234520788), ("linear", 0.325), ("one_minus_sqrt", 0.1 + 0.45 * (1 - 0.5**0.5))],
)
def test_other_annealings_lead_to_the_same_floor(annealing: str, middle: float) -> None:
    infinite = schedule(annealing=annealing)
    infinite.anneal(100, 20)
    assert [infinite.weight(t) for t in (100, 110, 120, 10**6)] == pytest.approx([0.55, middle, 0.1, 0.1], rel=1e-8)


def test_a_harmonic_annealing() -> None:
    infinite, vector = schedule(annealing="harmonic"), VECTOR["harmonic_anneal_(WSD-S)"]
    infinite.anneal(100, 20)
    assert [infinite.weight(100 + round(20 * u)) for u in vector["u"]] == pytest.approx(vector["lr"], rel=1e-9)


@pytest.mark.parametrize("step", [0, 4, 30, 60, 500])
@pytest.mark.parametrize("annealing", ["exponential", "linear", "one_minus_sqrt", "harmonic"])
def test_it_anneals_from_any_step_without_a_jump(step: int, annealing: str) -> None:
    infinite = schedule(annealing=annealing)
    before = infinite.weight(step)
    infinite.anneal(step, 10)
    assert infinite.weight(step) == before
    assert infinite.weight(step + 10) == pytest.approx(min(before, 0.1), abs=1e-15)
    with pytest.raises(ValueError, match="anneals from step"):
        infinite.anneal(step + 3)


def test_it_goes_on_from_before_an_annealing_or_from_its_end() -> None:
    infinite = schedule()
    infinite.anneal(200)
    assert infinite.weight(220) == pytest.approx(0.1), "a tenth of the steps so far"
    infinite.resume_constant(200)
    assert [infinite.weight(t) for t in (200, 220, 10**5)] == [0.55] * 3
    infinite.anneal(300, 10)
    infinite.resume_constant(310)
    assert infinite.weight(309) == 0.55, "what was is not told any more"
    with pytest.raises(ValueError, match="in no annealing"):
        infinite.resume_constant(400)


def test_it_survives_a_checkpoint() -> None:
    infinite, other = schedule(), schedule()
    infinite.anneal(100, 20)
    other.load_state_dict(json.loads(json.dumps(infinite.state_dict())))
    assert [other.weight(t) for t in range(200)] == [infinite.weight(t) for t in range(200)]
    assert other.annealing_from == 100


@pytest.mark.parametrize(
    "options",
    [
        {"warmup": -1},
        {"constant": 1.2},
        {"floor": 0.6},
        {"floor": 0.0},
        {"cooling": "ice"},
        {"constant": 0.0, "floor": 0.0},
    ],
)
def test_what_makes_no_schedule_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"infinite|ice"):
        InfiniteSchedule(**{"warmup": 1, "cooldown": 1, **options})
