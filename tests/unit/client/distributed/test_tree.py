"""Who tells whom on the way to rank 0."""

from __future__ import annotations

import itertools

import pytest
from lrpilot.distributed.tree import children, parent


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 100, 512])
def test_every_rank_but_the_first_tells_one(size: int) -> None:
    told = [(child, rank) for rank in range(size) for child in children(rank, size)]
    assert sorted(told) == [(rank, parent(rank)) for rank in range(1, size)]


@pytest.mark.parametrize("size", [2, 5, 64, 512])
def test_the_way_is_short_and_nobody_hears_many(size: int) -> None:
    levels = (size - 1).bit_length()
    for rank in range(size):
        way = list(itertools.takewhile(lambda each: each > 0, iter_parents(rank)))
        assert len(way) <= levels
        assert len(children(rank, size)) <= levels


def iter_parents(rank: int) -> itertools.accumulate[int]:
    return itertools.accumulate(itertools.repeat(None), lambda each, _: parent(each), initial=rank)
