"""A look down after a change: what it tries, what it refuses, and that weak evidence changes nothing."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner_server.core.messages import Candidate
from tuner_server.core.search.veto import MARGIN, MOST, SPACING, Veto

WANTED, START = 0.1, 5.0


def veto(gained: float = 0.0) -> Veto:
    return Veto(wanted=WANTED, probe_steps=25, gained=gained, because="other data")


def looked(losses: list[float | None], given: Veto, start: float | None = START) -> tuple[list[float], float]:
    """The LRs that are tried where they end at such losses (None: divergence), and the one that is chosen."""
    candidates: list[Candidate] = []
    while (lr := given.next(candidates, start)) is not None:
        loss = losses[min(len(candidates), len(losses) - 1)]
        candidates.append(Candidate(directive_number=len(candidates) + 1, lr=lr, forecast=loss))
    return [candidate.lr for candidate in candidates], given.chosen(candidates, start)


def test_what_was_wanted_is_kept_where_a_lower_lr_is_hardly_better() -> None:
    tried, chosen = looked([1.0, 0.9], veto())
    assert tried == pytest.approx([WANTED, WANTED / SPACING])
    assert chosen == WANTED


def test_an_lr_that_loses_most_of_what_a_lower_one_gains_is_refused() -> None:
    tried, chosen = looked([4.5, 1.0, 1.0], veto())
    assert tried == pytest.approx([WANTED, WANTED / SPACING, WANTED / SPACING**2])
    assert chosen == pytest.approx(WANTED / SPACING)


def test_one_that_diverges_is_refused_and_so_is_the_next() -> None:
    assert looked([None, None, 2.0, 2.0], veto())[1] == pytest.approx(WANTED / SPACING**2)


def test_where_all_diverge_it_ends_well_below_the_lowest() -> None:
    tried, chosen = looked([None], veto())
    assert len(tried) == MOST
    assert chosen == pytest.approx(WANTED / SPACING**MOST)


def test_a_lower_lr_that_diverges_says_nothing_against_a_higher_one() -> None:
    assert looked([2.0, None], veto())[1] == WANTED


def test_from_cooled_weights_every_probe_loses_a_little_and_that_is_no_reason() -> None:
    """The highest LR loses most: the weights are at the bottom, and the run is far below where it began."""
    start, gained = 0.4, 1.9
    assert looked([0.48, 0.41], veto(gained), start)[1] == WANTED
    assert looked([1.8, 0.5, 0.5], veto(gained), start)[1] == pytest.approx(WANTED / SPACING)


def test_of_two_ruined_probes_neither_speaks_for_the_higher_lr() -> None:
    assert looked([4.0, 4.1, 0.5], veto(1.9), 0.4)[1] == pytest.approx(WANTED / SPACING**2)


def test_with_nothing_known_of_the_start_what_was_gained_before_counts() -> None:
    assert looked([2.0, 1.9], veto(10.0), None)[1] == WANTED


@given(
    losses=st.lists(st.floats(-5, 5) | st.none(), min_size=1, max_size=MOST),
    shift=st.integers(-1000, 1000),
    scale=st.integers(-10, 10).map(lambda power: 2.0**power),
    gained=st.floats(0, 5),
)
def test_a_shift_and_a_unit_of_the_losses_change_nothing(
    losses: list[float | None], shift: int, scale: float, gained: float
) -> None:
    losses = [None if loss is None else round(loss, 2) for loss in losses]
    gained = round(gained, 2)
    moved = [None if loss is None else (loss + shift) * scale for loss in losses]
    near = [
        min(abs(h - low - MARGIN * max(START - low, gained, 0.0)), abs(h - START - MARGIN * gained)) < 1e-6
        for h, low in itertools.pairwise(losses)
        if h is not None and low is not None
    ]
    if not any(near):
        assert looked(moved, veto(gained * scale), (START + shift) * scale) == looked(losses, veto(gained))


def test_a_look_that_was_cut_short_keeps_what_was_wanted() -> None:
    one = Candidate(directive_number=1, lr=WANTED, forecast=math.pi)
    assert veto().chosen([], START) == veto().chosen([one], START) == WANTED
