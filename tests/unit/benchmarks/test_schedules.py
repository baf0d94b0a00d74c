from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.quality.schedules import SHAPES, WARMUP, lr_at


@pytest.mark.parametrize("name", SHAPES)
def test_warmup_rises_linearly_to_the_peak(name: str) -> None:
    shape = SHAPES[name]
    assert shape(0.0) == 0.0
    assert shape(WARMUP / 2) == pytest.approx(0.5)
    assert shape(WARMUP) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "middle", "end"),
    [
        ("linear", 0.5, 0.0),
        ("constant", 1.0, 1.0),
        ("cosine", 0.5, 0.0),
        ("rex", 2 / 3, 0.0),
        ("wsd", 1.0, 0.0),
        ("step", 0.1, 0.01),
        ("wsd, 1 - sqrt", 1.0, 0.0),
    ],
)
def test_value_halfway_between_warmup_and_end_and_at_the_end(name: str, middle: float, end: float) -> None:
    halfway = WARMUP + (1 - WARMUP) / 2
    assert SHAPES[name](halfway) == pytest.approx(middle)
    assert SHAPES[name](1.0) == pytest.approx(end)


@pytest.mark.parametrize("name", SHAPES)
def test_never_rises_after_the_warmup(name: str) -> None:
    values = [SHAPES[name](WARMUP + (1 - WARMUP) * i / 200) for i in range(201)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))


def test_step_drops_at_half_and_three_quarters() -> None:
    step = SHAPES["step"]
    assert [step(p) for p in (0.499, 0.5, 0.749, 0.75)] == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_wsd_decays_over_its_last_fifth() -> None:
    assert SHAPES["wsd"](0.8) == pytest.approx(1.0)
    assert SHAPES["wsd"](0.9) == pytest.approx(0.5)


def test_a_decay_by_the_root_is_at_a_half_after_a_quarter_of_it() -> None:
    assert SHAPES["wsd, 1 - sqrt"](0.8) == pytest.approx(1.0)
    assert SHAPES["wsd, 1 - sqrt"](0.85) == pytest.approx(0.5)


@pytest.mark.parametrize("progress", [-0.01, 1.01])
def test_progress_outside_the_run_is_an_error(progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        SHAPES["linear"](progress)


def test_no_step_of_a_run_has_an_lr_of_zero() -> None:
    lrs = [lr_at(SHAPES["linear"], 0.1, step, 100) for step in range(100)]
    assert min(lrs) > 0
    assert max(lrs) <= 0.1
