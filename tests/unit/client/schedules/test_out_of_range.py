"""Formulas of schedules refuse, by a ValueError, what they can't compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrpilot import schedules


def _scheduler(**options: Any) -> object:
    return schedules.scheduler(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), "rex", **options)


@pytest.mark.parametrize(
    "made",
    [
        lambda: schedules.as_shape(5),  # type: ignore[arg-type]
        lambda: schedules.Shape.parse(None),  # type: ignore[arg-type]
        lambda: schedules.two_point(math.nan, 1.0, 0.5, 0.5),
        lambda: schedules.anneal_from(0.1, 2.5),  # type: ignore[arg-type]
        lambda: schedules.transfer(-1.0, "linear", "cosine"),
        lambda: schedules.transfer(math.nan, "linear", "cosine"),
        lambda: schedules.transfer(0.1, "points(0, 1e-300, 1, 1e-300)", "cosine"),
        lambda: schedules.terms([1.0, -1.0, 1.0]),
        lambda: schedules.terms([math.inf]),
        lambda: schedules.extension(math.inf),
        lambda: schedules.extension(1e6),
        lambda: schedules.scaled_adam(2, 1.5, 0.999, 1e-8),
        lambda: schedules.scaled_adam(2, math.nan, 0.999, 1e-8),
        lambda: _scheduler(total_steps=10, warmup=2.5),
        lambda: _scheduler(total_steps=2.5),
    ],
)
def test_what_has_no_answer_is_refused(made: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        made()


def test_numbers_far_apart_are_computed_all_the_same() -> None:
    assert schedules.power_scheduler(1e300, 1e300).parameters[0] == 1.0
    tiny = schedules.InfiniteSchedule(1, 10, constant=1e-200, floor=0.0, cooling="isqrt", annealing="linear")
    assert 0 < tiny.weight(5) < 1e-100
