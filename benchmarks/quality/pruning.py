"""Which LRs of the grid a sweep runs that does without some: those that may be best, as other runs tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from benchmarks.quality.sweeps import Sweep


def with_neighbours(grid: Sequence[float], lrs: Collection[float]) -> tuple[float, ...]:
    """Those of `lrs` and the LRs next to them on the grid, in its order."""
    return tuple(lr for i, lr in enumerate(grid) if any(near in lrs for near in grid[max(0, i - 1) : i + 2]))


def pruned(
    grid: Sequence[float], likely: Collection[float], finished: Mapping[int, Mapping[float, float]]
) -> tuple[float, ...]:
    """The LRs to run, as far as is known: all of them once `finished` has all of them.

    Args:
        grid: LRs, rising.
        likely: Those that are best in other runs. They are run, and their neighbours.
        finished: Scores of this sweep's runs that are there, by seed and LR; an entry for every planned seed. As soon
            as they have all LRs so far, an LR that is best with some seed gets its neighbours as well.
    """
    lrs = with_neighbours(grid, likely)
    while all(lr in own for own in finished.values() for lr in lrs):
        bests = Sweep({seed: {lr: own[lr] for lr in lrs} for seed, own in finished.items()}).best_lrs()
        extended = {*lrs, *with_neighbours(grid, bests)}
        if len(extended) == len(lrs):
            break
        lrs = tuple(sorted(extended))
    return lrs
