from __future__ import annotations

import math

from benchmarks.quality.sweeps import Sweep


def test_every_seed_has_its_best_lr_unless_it_diverges_everywhere() -> None:
    sweep = Sweep({0: {0.1: 1.0, 1.0: 2.0}, 1: {0.1: 2.0, 1.0: 1.0}, 2: {0.1: math.inf, 1.0: math.inf}})
    assert sweep.best_lrs() == {0.1, 1.0}


def test_the_best_lr_on_average_has_the_lowest_mean_log_score() -> None:
    # Arithmetic means would prefer LR 1: 3.5 against 4.5.
    sweep = Sweep({0: {0.1: 1.0, 1.0: 3.0}, 1: {0.1: 8.0, 1.0: 4.0}})
    assert sweep.best_on_average() == 0.1


def test_of_equal_lrs_the_lower_one_is_taken() -> None:
    sweep = Sweep({0: {1.0: 1.0, 0.1: 1.0}, 1: {1.0: 1.0, 0.1: 1.0}})
    assert sweep.best_on_average() == 0.1
    assert sweep.best_lrs() == {0.1}


def test_an_lr_that_diverges_with_some_seed_is_not_the_best_on_average() -> None:
    sweep = Sweep({0: {0.1: 2.0, 1.0: 1.0}, 1: {0.1: 2.0, 1.0: math.inf}})
    assert sweep.best_on_average() == 0.1
    assert Sweep({0: {0.1: math.inf}, 1: {0.1: 1.0}}).best_on_average() is None


def test_a_pick_knows_nothing_of_its_own_seed() -> None:
    # Seed 0 would take 1.0, by far, and decides for the other two.
    sweep = Sweep({0: {0.1: 100.0, 1.0: 0.01}, 1: {0.1: 1.0, 1.0: 2.0}, 2: {0.1: 1.0, 1.0: 2.0}})
    assert sweep.picks() == {0: 0.1, 1: 1.0, 2: 1.0}


def test_the_only_seed_has_no_pick() -> None:
    assert Sweep({0: {0.1: 1.0}}).picks() == {}
