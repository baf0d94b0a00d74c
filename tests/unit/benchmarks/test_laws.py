from __future__ import annotations

import numpy as np
import pytest

from benchmarks import laws
from benchmarks.quality.results import RunKey
from benchmarks.quality.schedules import SHAPES
from benchmarks.quality.training import Curve


def _law(key: RunKey) -> Curve:
    path, seen = laws.path_of(key), np.arange(100, key.n_steps + 1, 100)
    losses = 1 + 0.2 * path.area()[seen - 1] ** -0.4 - 0.05 * path.annealing_area(0.98)[seen - 1]
    return Curve(float(losses[-1]), False, seen.tolist(), losses.tolist(), [], 0.0)


@pytest.fixture(scope="module")
def runs() -> dict[RunKey, Curve]:
    keys = [RunKey("mlp", 1, name, 0.1, 0, 2000) for name in ("constant", "cosine", "linear", "wsd")]
    return {key: _law(key) for key in keys}


def test_runs_that_follow_the_law_are_forecast_without_error(runs: dict[RunKey, Curve]) -> None:
    table = laws.rows([*laws.of_the_rest(runs), *laws.of_other_schedules(runs)])
    assert set(table) == {
        "cosine, after 50%",
        "cosine, after 75%",
        "linear, after 50%",
        "linear, after 75%",
        "linear, by constant and cosine",
        "wsd, by constant and cosine",
    }
    for name, row in table.items():
        assert row["error"] < 0.01 < row["last_seen"] or "constant" in name
        assert row["error"] < 0.01
        assert row["beyond"] == 0
    assert "| linear, after 75% | 1 | " in laws.as_markdown(table)


def test_the_stored_runs_are_read() -> None:
    runs = laws.stored_runs()
    assert len(runs) > 1000
    assert {key.contestant for key in runs} == set(SHAPES)
