"""Schedules refined from recorded norms: the shape, the peak, the warm-up, another length, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lrpilot.errors import ScheduleError
from lrpilot.schedule.schedule import Schedule
from lrpilot.wire.phase import Phase
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Measured, Segment

from tuner_server.cli.what_if.refined_schedule import draw, refinement_of
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.laws import refinement
from tuner_server.core.laws.optimizer_kind import OptimizerKind

STEPS, WARMUP, PEAK = 1200, 60, 0.3
LINEAR = Profile.to_zero(Shape.LINEAR, PEAK, STEPS, WARMUP)
GROWING = tuple(np.linspace(1.0, 3.0, STEPS).tolist())


def schedule(*segments: Segment, **norms: tuple[float, ...]) -> Schedule:
    return Schedule(
        job_id="3f2a",
        name="digits",
        policy="budget",
        base_lrs=(0.1, 0.01),
        total_steps=STEPS,
        segments=segments or (Segment(0, STEPS, LINEAR, Phase.TRAIN, 0),),
        measures=tuple(Measured(name, values) for name, values in norms.items()),
    )


def refined(
    source: Schedule, kind: OptimizerKind | None = None, n: int | None = None, *, whole: bool = False
) -> Schedule:
    return refinement_of(source, kind, whole=whole).refined(n)


def test_norms_that_stay_give_the_linear_decay_that_the_run_had() -> None:
    found = refined(schedule(gradient_norm=(2.5,) * STEPS))
    assert found.lrs() == pytest.approx(schedule().lrs(), rel=1e-12)
    assert (found.base_lrs, found.total_steps, found.n_steps) == ((0.1, 0.01), STEPS, STEPS)


@pytest.mark.parametrize(("name", "kind"), [("gradient_norm", "sgd"), ("gradient_l1_norm", "adam")])
def test_what_was_recorded_says_what_kind_the_optimizer_is_of(name: str, kind: str) -> None:
    expected = refinement.refined(GROWING[WARMUP:], OptimizerKind(kind))
    lrs = np.array(refined(schedule(**{name: GROWING})).lrs())
    way = STEPS - WARMUP
    at = np.interp(np.arange(way) / way, np.linspace(0, 1, way), expected)
    assert lrs[WARMUP:] == pytest.approx(PEAK * at, abs=2e-3 * PEAK)
    assert lrs.max() == pytest.approx(PEAK)
    assert lrs[-1] < 1e-3 * PEAK


def test_of_both_norms_those_of_adam_count_unless_it_is_told_otherwise() -> None:
    both = schedule(gradient_norm=GROWING, gradient_l1_norm=GROWING)
    assert refinement_of(both, None, whole=False).kind is OptimizerKind.ADAM
    assert refinement_of(both, OptimizerKind.SGD, whole=False).kind is OptimizerKind.SGD


def test_the_warm_up_stays_unless_the_whole_run_is_made_anew() -> None:
    """Small norms at the first steps, as of a network whose LR is hardly there yet."""
    norms = tuple(0.1 if step < WARMUP else 1.0 for step in range(STEPS))
    source = schedule(gradient_norm=norms)
    kept = refined(source).lrs()
    assert kept[: WARMUP + 1] == pytest.approx(source.lrs()[: WARMUP + 1])
    assert kept[STEPS // 2] == pytest.approx(source.lrs()[STEPS // 2], rel=0.01)
    whole = refined(source, whole=True).lrs()
    assert whole[0] == pytest.approx(PEAK)
    assert whole[STEPS // 2] < 0.05 * PEAK


def test_a_warm_up_of_its_own_phase_counts_too() -> None:
    rise = Segment(0, 200, Profile(Shape.LINEAR, 0.0, PEAK, 200), Phase.WARM_UP, -1)
    source = schedule(rise, Segment(200, 1000, Profile.to_zero(Shape.LINEAR, PEAK, 1000), Phase.TRAIN, 0))
    norms = (1e-3,) * 200 + (1.0,) * 1000
    found = refined(dataclasses.replace(source, measures=(Measured("gradient_norm", norms),)))
    assert found.segments[0].profile.warmup == 200
    assert found.lrs()[200:] == pytest.approx(source.lrs()[200:], rel=1e-9)


@pytest.mark.parametrize("n", [1, 30, 400, 6000])
def test_another_length_has_the_same_shape(n: int) -> None:
    source = schedule(gradient_norm=GROWING)
    found, same = refined(source, None, n), refined(source)
    assert found.n_steps == n
    if n >= 400:
        assert found.lr(n // 2) == pytest.approx(same.lr(STEPS // 2), rel=0.02)


def test_it_survives_a_file_and_is_replayed(tmp_path: Path) -> None:
    found = refined(schedule(gradient_norm=GROWING))
    found.save(tmp_path / "schedule.json")
    loaded = Schedule.load(tmp_path / "schedule.json")
    assert loaded == found
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1}])
    scheduler = loaded.scheduler(optimizer)
    seen = []
    for _ in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == found.lrs()


@pytest.mark.parametrize(
    ("measures", "kind", "words"),
    [
        (
            {},
            None,
            'no gradient_norm or gradient_l1_norm; record it: .*record=\\("gradient_norm", "gradient_l1_norm",\\)',
        ),
        (
            {"gradient_norm": GROWING},
            OptimizerKind.ADAM,
            'no gradient_l1_norm; record it: .*record=\\("gradient_l1_norm"',
        ),
        ({"gradient_norm": GROWING[:600]}, None, "gradient_norm is there for 600 of 1200 committed steps"),
    ],
)
def test_without_its_norms_a_run_is_not_refined(measures: dict[str, Any], kind: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        refinement_of(schedule(**measures), kind, whole=False)


def test_a_run_that_goes_on_is_not_refined() -> None:
    begun = schedule(Segment(0, 600, LINEAR, Phase.TRAIN, 0), gradient_norm=GROWING[:600])
    with pytest.raises(InvalidInputError, match="600 of 1200"):
        refinement_of(begun, None, whole=False)


def test_a_picture_shows_norms_and_both_schedules(tmp_path: Path) -> None:
    norms = (math.nan, 0.0, *GROWING[2:])
    found = refinement_of(schedule(gradient_norm=norms), None, whole=False)
    draw(found, found.refined(500), "digits", tmp_path / "refined.png")
    assert (tmp_path / "refined.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ScheduleError, match="plot"):
        draw(found, found.refined(), "digits", tmp_path / "refined.nothing")
