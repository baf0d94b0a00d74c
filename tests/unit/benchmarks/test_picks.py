"""Picks on planted tables, whose best LRs are known, and the table's own probes on a real workload."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.picks import table as tables
from benchmarks.picks.__main__ import STORED_TABLE
from benchmarks.picks.evidence import Evidence, gather
from benchmarks.picks.finals import CAP, Finals, cost, finals, slopes
from benchmarks.picks.ideal import ideals, optimum
from benchmarks.picks.landscape import Surface, landscapes
from benchmarks.picks.markdown import as_json, as_markdown
from benchmarks.picks.plot import plot
from benchmarks.picks.reality import compare
from benchmarks.picks.report import Report, make_report
from benchmarks.picks.scatter import PAIRS, scatter
from benchmarks.picks.simulate import config, simulate
from benchmarks.picks.table import LENGTHS, Probe, ProbeKey, TableFile, build, complete, lrs, plan
from benchmarks.picks.variations import DEFAULT, FAR_OFF, VARIATIONS, Variation
from benchmarks.quality.cases import Case
from benchmarks.quality.plan import OURS, REFERENCE
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve
from benchmarks.quality.workloads import WORKLOADS
from tests.support.jobs.quality_runs import curve, key
from tuner_server.core.search.prior import LENGTH_EXPONENT
from tuner_server.core.search.users_lr import toward_users
from tuner_server.core.stages.decayed_probe import MIN_PROBE, length_correction

FIRST = 2.5
PROBE_BEST = {"mlp": 0.02, "inpainting": 0.05}
"""The planted optimum of every probe."""
RUN_FACTOR = 0.4
"""The planted best LR of a run, relative to it."""
RUN_LENGTHS = (1000, 2000)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _bowl(lr: float, best: float) -> float:
    return 1.0 + 0.1 * math.log(lr / best) ** 2


def _table(lengths: Sequence[int] = (6, 20, 250), n_seeds: int = 2) -> dict[ProbeKey, Probe]:
    """Probes whose loss is a bowl over log LR; the two highest LRs diverge."""
    table = {}
    for keys in plan(PROBE_BEST, n_seeds, lengths).values():
        edge = sorted({key.lr for key in keys})[-2]
        for own in keys:
            loss = math.inf if own.lr >= edge else _bowl(own.lr, PROBE_BEST[own.workload])
            table[own] = Probe(loss, loss, FIRST, FIRST)
    return table


def _scores(n_seeds: int = 2) -> dict[RunKey, float]:
    """Sweeps of linear decays; the best score falls with the square root of the length."""
    return {
        RunKey(name, WORKLOADS[name].version, REFERENCE, lr, seed, n): _bowl(lr, RUN_FACTOR * best) * n**-0.5
        for name, best in PROBE_BEST.items()
        for lr in WORKLOADS[name].lr_grid
        for seed in range(n_seeds)
        for n in RUN_LENGTHS
    }


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return gather(_table(), _scores())


def _surface(losses: Sequence[Sequence[float]]) -> Surface:
    return Surface((10, 40), (0.01, 0.1, 1.0), np.array(losses), FIRST)


def _at(surface: Surface, n_steps: int, lr: float) -> float:
    return float(surface.at(n_steps, np.array([math.log(lr)]))[0])


def test_a_surface_goes_through_the_probes_and_lies_between_them() -> None:
    surface = _surface(((2.0, 1.0, 3.0), (1.0, 0.5, 2.0)))
    assert _at(surface, 10, 0.1) == pytest.approx(1.0)
    assert _at(surface, 40, 0.01) == pytest.approx(1.0)
    assert 1.0 < _at(surface, 10, 0.3) < 3.0
    assert 0.5 < _at(surface, 20, 0.1) < 1.0


def test_beyond_the_probes_the_loss_is_that_of_the_last_lr_but_no_length_is_made_up() -> None:
    surface = _surface(((2.0, 1.0, 3.0), (1.0, 0.5, 2.0)))
    assert _at(surface, 10, 1e-4) == pytest.approx(2.0)
    assert _at(surface, 10, 50.0) == pytest.approx(3.0)
    for n_steps in (9, 41):
        with pytest.raises(ValueError, match=f"no probes of {n_steps} steps"):
            _at(surface, n_steps, 0.1)


def test_between_a_sound_probe_and_one_that_diverged_the_nearer_one_counts() -> None:
    surface = _surface(((2.0, 1.0, math.inf), (1.0, 0.5, 2.0)))
    assert _at(surface, 10, 0.3) == pytest.approx(1.0)
    assert _at(surface, 10, 0.4) == math.inf
    assert _at(surface, 15, 1.0) == math.inf
    assert _at(surface, 35, 1.0) == pytest.approx(2.0)


def test_losses_that_explode_leave_the_sound_ones_beside_them_alone() -> None:
    surface = _surface(((2.0, 1.0, 1e30), (2.0, 1.0, 1e30)))
    assert _at(surface, 10, 0.12) < 10.0


def test_a_length_with_one_sound_probe_has_diverged() -> None:
    surface = _surface(((2.0, math.inf, math.inf), (1.0, 0.5, 2.0)))
    assert _at(surface, 10, 0.01) == math.inf


def test_a_table_that_lacks_a_probe_is_refused() -> None:
    table = _table()
    del table[next(iter(table))]
    with pytest.raises(ValueError, match="lacks 1 probes"):
        landscapes(table)


@pytest.mark.parametrize(("workload", "best"), PROBE_BEST.items())
def test_the_simulated_pick_is_the_planted_optimum(evidence: Evidence, workload: str, best: float) -> None:
    users_lr = evidence.nominal[workload] * FAR_OFF
    landscape = evidence.landscapes[workload, 0]
    plain = simulate(landscape, config(WORKLOADS[workload], 1000, users_lr, 0, {"length_exponent": 0.0}))
    assert plain.lr == pytest.approx(best, rel=0.15)
    corrected = simulate(landscape, config(WORKLOADS[workload], 1000, users_lr, 0, {}))
    assert corrected.search_steps == plain.search_steps
    remaining = 1000 - plain.search_steps
    assert corrected.lr == pytest.approx(plain.lr * length_correction(MIN_PROBE, remaining, LENGTH_EXPONENT))


def test_a_pick_with_a_users_lr_far_off_is_one_without_the_prior() -> None:
    assert toward_users(0.01, 0.001 * FAR_OFF) == 0.01


def test_longer_probes_take_more_search_steps(evidence: Evidence) -> None:
    case = Case("mlp", 0, 2000)
    judged = [evidence.judge(case, Variation("", "", {"probe_steps": n})) for n in (10, 20, 40)]
    steps = [own.pick.search_steps for own in judged if own]
    assert len(steps) == 3
    assert steps == sorted(set(steps))


def test_a_run_too_short_for_a_search_has_no_pick(evidence: Evidence) -> None:
    assert evidence.judge(Case("mlp", 0, 1000), Variation("", "", {"probe_steps": 100})) is None


def test_without_a_best_lr_of_the_grid_there_is_no_pick_that_takes_it(evidence: Evidence) -> None:
    takes_best = next(v for v in VARIATIONS if v.takes_best)
    assert evidence.judge(Case("mlp", 0, 1000), takes_best) is not None
    assert replace(evidence, best={}).judge(Case("mlp", 0, 1000), takes_best) is None


def test_a_probe_that_diverges_is_reported_and_the_search_goes_on() -> None:
    best = PROBE_BEST["mlp"]
    table = {
        own: replace(probe, validation=math.inf, held_out=math.inf) if own.lr > 2 * best else probe
        for own, probe in _table().items()
    }
    pick = simulate(
        landscapes(table)[tables.State("mlp", 1, 0)], config(WORKLOADS["mlp"], 1000, FAR_OFF, 0, {"length_exponent": 0})
    )
    assert best / 1.5 < pick.lr < 1.5 * best


def test_cost_grows_with_the_steps_that_are_lost_and_with_what_a_step_is_worth() -> None:
    assert cost(0, 1000, 0.3) == 1.0
    costs = [cost(steps, 1000, 0.3) for steps in (0, 60, 120, 200)]
    assert costs == sorted(set(costs))
    assert cost(100, 1000, 0.2) < cost(100, 1000, 0.4)
    assert cost(100, 1000, 0.0) == 1.0


def test_slopes_are_those_between_the_neighbouring_lengths_and_never_negative() -> None:
    def found(best: Callable[[int], float]) -> Mapping[tuple[str, int], float]:
        return slopes({Case("a", 0, n): Finals({0.1: 2.0, 1.0: best(n), 10.0: 2.0}) for n in (500, 1000, 4000)})

    falling = found(lambda n: {500: 1.0, 1000: 0.5, 4000: 0.25}[n])
    assert falling["a", 500] == pytest.approx(1.0)
    assert falling["a", 1000] == pytest.approx(2 / 3)
    assert falling["a", 4000] == pytest.approx(0.5)
    assert set(found(lambda n: 1.0 + n / 1e4).values()) == {0.0}
    with pytest.raises(ValueError, match="500 steps only"):
        slopes({Case("a", 0, 500): Finals({0.1: 2.0, 1.0: 1.0, 10.0: 2.0})})


def test_final_scores_are_relative_to_the_best_of_the_sweep_and_rise_beyond_it() -> None:
    found = Finals({0.1: 3.0, 1.0: 2.0, 10.0: math.inf})
    assert found.best_lr == 1.0
    assert found.ratio(0.1) == pytest.approx(1.5)
    assert found.ratio(1.0) == pytest.approx(1.0)
    assert found.ratio(10.0) == pytest.approx(CAP)
    assert found.ratio(0.01) == pytest.approx(1.5**2)
    assert Finals({0.1: 1.0, 1.0: 2.0, 10.0: 3.0}).ratio(0.001) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no ratios"):
        Finals({0.1: 3.0, 1.0: 2.0})
    with pytest.raises(ValueError, match="no ratios"):
        Finals(dict.fromkeys((0.1, 1.0, 10.0), math.inf))


def test_a_short_sweep_needs_the_whole_grid_and_a_long_one_the_best_with_its_neighbours() -> None:
    grid = WORKLOADS["mlp"].lr_grid

    def sweep(lrs: Sequence[float], n_steps: int, best: float) -> dict[RunKey, float]:
        return {key(REFERENCE, "mlp", 0, lr, n_steps): _bowl(lr, best) for lr in lrs}

    assert not finals(sweep(grid[:-1], 4000, grid[2]))
    assert set(finals(sweep(grid, 4000, grid[2]))) == {Case("mlp", 0, 4000)}
    assert set(finals(sweep(grid[1:4], 8000, grid[2]))) == {Case("mlp", 0, 8000)}
    assert not finals(sweep(grid[1:4], 8000, grid[3]))
    outdated = {replace(own, version=0): score for own, score in sweep(grid, 4000, grid[2]).items()}
    assert not finals(outdated)


def test_evidence_needs_a_case_with_both_probes_and_a_sweep() -> None:
    with pytest.raises(ValueError, match="no case"):
        gather(_table(), {})


def test_the_ideal_factor_is_the_planted_one(evidence: Evidence) -> None:
    landscape = evidence.landscapes["mlp", 0]
    assert math.exp(optimum(landscape.validation, 20)) == pytest.approx(PROBE_BEST["mlp"], rel=0.05)
    (first, *_) = ideals(evidence, ["mlp"], [20])
    # The sweep has its lowest point at an LR of its grid, half a decade from the next.
    assert first.factor * PROBE_BEST["mlp"] == pytest.approx(evidence.finals[Case("mlp", 0, 1000)].best_lr, rel=0.1)
    assert first.ratios.mean == pytest.approx(1.0, abs=1e-3)
    assert first.used == length_correction(20, 1000, LENGTH_EXPONENT)
    assert first.used_ratios.mean >= first.ratios.mean


def test_optima_that_agree_between_seeds_and_lengths_scatter_by_nothing(evidence: Evidence) -> None:
    found = scatter(evidence, list(PROBE_BEST), MIN_PROBE)
    assert max(found.optima.values()) == pytest.approx(0.0, abs=1e-9)
    assert [e.mean for e in found.between_probes] == pytest.approx([0.0] * len(PAIRS), abs=1e-9)
    assert [(e.short, e.long) for e in found.to_runs] == [(MIN_PROBE, n) for n in RUN_LENGTHS]
    gaps = [
        math.log(best / evidence.finals[Case(name, 0, 1000)].best_lr) / math.log(1000 / MIN_PROBE)
        for name, best in PROBE_BEST.items()
    ]
    assert found.to_runs[0].mean == pytest.approx(sum(gaps) / 2, abs=0.02)
    assert found.to_runs[0].over_workloads == pytest.approx(abs(gaps[0] - gaps[1]) / math.sqrt(2), abs=0.02)


def _report(evidence: Evidence) -> Report:
    runs: dict[RunKey, Curve] = {
        key(OURS, "mlp", seed): curve(1.0, search_steps=120, peak_lr=0.01) for seed in range(2)
    }
    scores = dict.fromkeys(runs, 1000**-0.5 * 1.5)
    return make_report(evidence, runs, scores, VARIATIONS[:3])


def test_the_report_is_the_same_every_time_and_says_what_was_found(evidence: Evidence) -> None:
    report = _report(evidence)
    assert report == _report(evidence)
    assert (report.usual, report.hard) == (["mlp", "inpainting"], [])
    text = as_markdown(report)
    assert "| default " in text
    assert "### probe_steps" in text
    figures = json.loads(json.dumps(as_json(report), allow_nan=False))
    (default, *_) = figures["picks"]
    ratios = report.rows[0].ratios(1000, report.usual)
    assert ratios is not None
    assert (default["n_steps"], default["cases"], default["mean"]) == (1000, 4, ratios.mean)
    assert 0.05 < default["search_share"] < 0.2


def test_the_plot_has_two_lines_for_every_length(evidence: Evidence) -> None:
    for axes in plot(ideals(evidence, ["mlp"], [10, 20])).axes:
        assert len(axes.lines) == 2 * len(RUN_LENGTHS)


def test_simulated_picks_are_set_beside_real_ones(evidence: Evidence) -> None:
    judged = evidence.judge(Case("mlp", 0, 1000), DEFAULT)
    assert judged is not None
    real, diverged = key(OURS, "mlp", 0), key(OURS, "mlp", 1)
    runs = {real: curve(1.0, peak_lr=judged.pick.lr * 2), diverged: curve(math.inf)}
    best = evidence.finals[Case("mlp", 0, 1000)].best
    (found,) = compare(evidence, runs, {real: 1.2 * best, diverged: math.inf}, ["mlp"])
    assert found.n_steps == 1000
    assert found.distance == pytest.approx(math.log(2))
    assert found.simulated.by_case == {Case("mlp", 0, 1000): judged.ratio}
    assert found.real.mean == pytest.approx(1.2)


def test_a_table_file_gives_back_what_was_added_to_six_digits(tmp_path: Path) -> None:
    file = TableFile(tmp_path / "probes.jsonl")
    (own, *_) = plan(["mlp"], 1, (6,)).values()
    file.append(own[0], Probe(1.23456789, 2.0, FIRST, FIRST))
    file.append(own[1], Probe(math.inf, math.inf, FIRST, FIRST))
    with (tmp_path / "probes.jsonl").open("a") as stream:
        stream.write('["mlp", 1, 0, 6')
    assert file.load() == {
        own[0]: Probe(1.23457, 2.0, FIRST, FIRST),
        own[1]: Probe(math.inf, math.inf, FIRST, FIRST),
    }


def test_probes_come_out_the_same_in_any_order_and_are_those_of_the_stored_table() -> None:
    stored = TableFile(STORED_TABLE).load()
    keys = [own for own in stored if (own.workload, own.seed, own.n_steps) == ("mlp", 1, 10)][::4]
    found = build(keys)
    assert build(keys[::-1]) == found
    for own, probe in found.items():
        assert probe.validation == pytest.approx(stored[own].validation, rel=1e-3)
        assert probe.held_out == pytest.approx(stored[own].held_out, rel=1e-3)
        assert probe.first_validation == pytest.approx(stored[own].first_validation, rel=1e-3)


def test_probes_of_several_states_are_not_built_at_once() -> None:
    keys = [own[0] for own in plan(["mlp"], 2, (6,)).values()]
    with pytest.raises(ValueError, match="those of 2"):
        build(keys)


def test_a_table_is_completed_by_what_it_lacks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[ProbeKey]] = []

    def work_here(
        title: str, keys: list[tuple[ProbeKey, ...]], work: Callable[..., object], describe: object, n_workers: int
    ) -> Iterator[tuple[tuple[ProbeKey, ...], object]]:
        asked.extend(keys)
        return ((own, work(own)) for own in keys)

    monkeypatch.setattr(tables, "run_in_workers", work_here)
    file = TableFile(tmp_path / "probes.jsonl")
    planned = plan(["mlp"], 1, (6,))
    (keys,) = planned.values()
    for own in keys[2:]:
        file.append(own, Probe(1.0, 1.0, FIRST, FIRST))
    found = complete(planned, file, 1)
    assert asked == [tuple(keys[:2])]
    assert list(found) == keys
    assert found[keys[2]].validation == 1.0
    assert found[keys[0]].validation != 1.0
    assert complete(planned, file, 1) == found
    assert len(asked) == 1


def test_the_stored_table_is_complete_and_small() -> None:
    stored = TableFile(STORED_TABLE).load()
    assert stored.keys() == {own for keys in plan().values() for own in keys}
    assert {own.n_steps for own in stored} == set(LENGTHS)
    assert STORED_TABLE.stat().st_size < 500_000


def test_the_lrs_of_a_table_reach_beyond_the_grid_of_its_workload() -> None:
    for workload in WORKLOADS.values():
        found = lrs(workload)
        assert found[0] < workload.lr_grid[0]
        assert workload.lr_grid[-1] < found[-1]
