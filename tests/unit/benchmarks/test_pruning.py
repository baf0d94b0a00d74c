from __future__ import annotations

from benchmarks.quality.pruning import pruned, with_neighbours
from tests.support.jobs.quality_runs import GRID


def _scores(best: float, lrs: tuple[float, ...] = GRID) -> dict[float, float]:
    return {lr: 1.0 + abs(GRID.index(lr) - GRID.index(best)) for lr in lrs}


def test_neighbours_end_where_the_grid_does() -> None:
    assert with_neighbours(GRID, {0.001}) == (0.001, 0.0032)
    assert with_neighbours(GRID, {1.0, 0.032}) == (0.01, 0.032, 0.1, 0.32, 1.0)


def test_the_best_lrs_of_all_seeds_are_run_and_their_neighbours() -> None:
    assert pruned(GRID, {0.032, 0.1}, {0: {}, 1: {}, 2: {}}) == (0.01, 0.032, 0.1, 0.32)


def test_nothing_is_added_before_all_seeds_are_there() -> None:
    lrs = (0.01, 0.032, 0.1)
    assert pruned(GRID, {0.032}, {0: _scores(0.01, lrs), 1: {}}) == lrs


def test_a_best_lr_inside_ends_it() -> None:
    lrs = (0.01, 0.032, 0.1)
    assert pruned(GRID, {0.032}, {0: _scores(0.032, lrs), 1: _scores(0.032, lrs)}) == lrs


def test_a_best_lr_at_the_edge_adds_one_neighbour_until_it_is_inside() -> None:
    lrs: tuple[float, ...] = (0.01, 0.032, 0.1)
    seen = [lrs]
    while True:
        # The best LR of the long runs is two half decades lower with seed 1.
        found = pruned(GRID, {0.032}, {0: _scores(0.032, lrs), 1: _scores(0.0032, lrs)})
        if found == lrs:
            break
        lrs = found
        seen.append(lrs)
    assert seen == [(0.01, 0.032, 0.1), (0.0032, 0.01, 0.032, 0.1), (0.001, 0.0032, 0.01, 0.032, 0.1)]


def test_the_extension_ends_where_the_grid_does() -> None:
    lrs = (0.1, 0.32, 1.0)
    assert pruned(GRID, {0.32}, {0: _scores(1.0, lrs)}) == lrs


def test_finished_runs_of_other_lrs_change_nothing() -> None:
    whole = _scores(0.001) | dict.fromkeys((0.01, 0.1), 10.0) | {0.032: 9.0}
    assert pruned(GRID, {0.032}, {0: whole}) == (0.01, 0.032, 0.1)
