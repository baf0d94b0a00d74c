"""What a probe tells of an LR that is off, beside what a run does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.picks.table import Probe, ProbeKey
from benchmarks.quality.initial_losses import Start
from benchmarks.sensitivity import Pair, as_json, as_markdown, draw, lost, pairs, rows
from tests.support.jobs.quality_runs import sweep

PROBES = {
    ProbeKey("easy", 1, seed, 20, lr): Probe(loss, loss, 4.0, 4.0)
    for seed in (0, 1)
    for lr, loss in ((0.1 / 3, 3.0), (0.1, 2.0), (0.3, math.inf))
}
RUNS = sweep("linear", "easy", {seed: {0.1 / 3: 1.5, 0.1: 1.0, 0.3: 2.5} for seed in (0, 1)})
START = {Start("easy", 1, seed): 4.0 for seed in (0, 1)}


def test_what_is_lost_to_either_side_is_a_part_of_the_best_gain() -> None:
    assert lost({0.1 / 3: 3.0, 0.1: 2.0, 0.3: math.inf}, 4.0) == {"too low": pytest.approx(0.5), "too high": 1.0}
    assert lost({0.1: 2.0, 0.3: math.inf}, 4.0) == {"too high": 1.0}
    assert lost({0.1: 5.0, 0.3: math.inf}, 4.0) == {}


def test_cases_that_have_probes_a_sweep_and_a_start_are_paired(tmp_path: Path) -> None:
    found = pairs(PROBES, RUNS, START)
    assert [(pair.seed, pair.side) for pair in found] == [(s, side) for s in (0, 1) for side in ("too low", "too high")]
    assert {(pair.side, round(pair.probe, 9), round(pair.run, 9)) for pair in found} == {
        ("too low", 0.5, round(0.5 / 3, 9)),
        ("too high", 1.0, 0.5),
    }
    assert not pairs(PROBES, RUNS, {})
    assert not pairs({}, RUNS, START)
    varied = [*found, Pair("easy", 2, 1000, "too low", 0.6, 0.3), Pair("easy", 2, 1000, "too high", 0.6, 0.9)]
    low, high = rows(varied)
    assert low.n_cases == 3
    assert low.probe == pytest.approx(0.5)
    assert low.rank_correlation == pytest.approx(1.0)
    assert high.rank_correlation == pytest.approx(-1.0)
    assert "3 times too low" in as_markdown(varied)
    json.dumps(as_json(varied), allow_nan=False)
    draw(varied).savefig(tmp_path / "sensitivity.png")
