"""Norms of committed steps in few numbers: where they lie, what is missing, and how many are kept."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from lrpilot.wire.profile import Profile, Shape

from tuner_server.core.stages.norm_track import MOST_BLOCKS, NormTrack


def profile(length: int, warmup: int = 0) -> Profile:
    return Profile.to_zero(Shape.LINEAR, 0.1, length, warmup)


def tracked(norms: list[float], warmup: int = 0, part: int = 50) -> NormTrack:
    track = NormTrack()
    for begin in range(0, len(norms), part):
        track = track.after(norms[begin : begin + part], profile(len(norms), warmup), begin)
    return track


def test_a_short_run_keeps_every_norm_past_its_warm_up() -> None:
    track = tracked([float(step + 1) for step in range(400)], warmup=100)
    assert track.norms == tuple(float(step + 1) for step in range(100, 400))
    assert track.at[0] == pytest.approx(0.5 / 300)
    assert track.reach == pytest.approx(1 - 0.5 / 300)


@pytest.mark.parametrize("part", [1, 7, 200, 100_000])
def test_a_long_run_keeps_few_numbers_which_lie_where_the_norms_did(part: int) -> None:
    n = 20_000
    track = tracked(np.linspace(1.0, 3.0, n).tolist(), part=part)
    assert len(track.at) == len(track.norms) <= MOST_BLOCKS
    assert all(a < b for a, b in pairwise(track.at))
    assert track.curve(100) == pytest.approx(np.linspace(1.0, 3.0, 100), abs=0.03)


def test_norms_that_are_no_positive_numbers_do_not_count() -> None:
    norms = [2.0, math.nan, 0.0, math.inf, -1.0, 4.0]
    track = NormTrack().after(norms, profile(6), 0)
    assert track.norms == (2.0, 4.0)
    assert NormTrack().after([math.nan] * 6, profile(6), 0) == NormTrack()


def test_without_norms_nothing_is_known() -> None:
    assert NormTrack().reach == 0.0
