"""How much an LR that is not the best of its grid costs, by contestant.

The measure is the LR sensitivity of Wortsman et al. 2023 (`tuner_server.core.laws.lr_sensitivity`), over all LRs of a
workload's grid, as a part of what the best of them gained: 0, the LR makes no difference, and 1, all LRs but one learn
nothing. A contestant that takes no LR has one, too: over the LRs that its user's optimizer carried.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from benchmarks.quality.cases import Case
from benchmarks.quality.initial_losses import Start
from benchmarks.quality.measures import complete_cells
from benchmarks.quality.plan import OURS, OURS_TO_ZERO
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve
from benchmarks.quality.users_lr import USERS_LR
from tuner_server.core.laws.lr_sensitivity import lr_sensitivity, relative_lr_sensitivity

WRONG_BY = ("budget, LR /30", OURS_TO_ZERO, "budget, LR x30")
"""Our policy on an optimizer that carries an LR a thirtieth of the usual one, the usual one, and thirty times that."""
OURS_WRONG = f"{OURS}, LR /30 to x30"
"""The name of these three as one contestant."""


@dataclass(frozen=True)
class LrSensitivity:
    """The LR sensitivity of one contestant at one length, over all its complete cases; there is at least one.

    Attributes:
        contestant: Its name.
        n_steps: Steps of a run.
        losses: Sensitivities in the unit of the loss.
        shares: The same as a part of what the best LR gained.
    """

    contestant: str
    n_steps: int
    losses: Mapping[Case, float]
    shares: Mapping[Case, float]

    @property
    def by_workload(self) -> dict[str, float]:
        """The mean share over the seeds of each workload."""
        return {workload: statistics.fmean(shares) for workload, shares in self._shares_by_workload.items()}

    @property
    def mean(self) -> float:
        """The mean over workloads of the mean share over seeds."""
        return statistics.fmean(self.by_workload.values())

    @property
    def standard_error(self) -> float | None:
        """That of the mean; workloads are fixed, and seeds the sample. None: a workload has one seed only."""
        found = self._shares_by_workload.values()
        if any(len(shares) < 2 for shares in found):
            return None
        return math.sqrt(sum(statistics.variance(shares) / len(shares) for shares in found)) / len(found)

    def within(self, cases: Collection[Case]) -> Self | None:
        """The same over `cases` only; None if it has none of them."""
        losses = {case: loss for case, loss in self.losses.items() if case in cases}
        shares = {case: share for case, share in self.shares.items() if case in cases}
        return replace(self, losses=losses, shares=shares) if losses else None

    @property
    def _shares_by_workload(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for case, share in self.shares.items():
            found[case.workload].append(share)
        return found


def lr_sensitivities(
    keys: Iterable[RunKey],
    runs: Mapping[RunKey, Curve],
    scores: Mapping[RunKey, float],
    start: Mapping[Start, float],
    pruned: Collection[tuple[str, int]],
) -> list[LrSensitivity]:
    """All that can be told, by contestant and length.

    Args:
        keys: The planned runs.
        runs: The finished ones of them.
        scores: Theirs.
        start: The losses at initialisation. A case without one is left out.
        pruned: Contestants and lengths that have LRs near the best alone, and so no sensitivity.
    """
    cells = complete_cells(keys, scores)
    found = []
    for (contestant, n_steps), own in {**_grids(cells, pruned), **_ours(cells)}.items():
        losses: dict[Case, float] = {}
        shares: dict[Case, float] = {}
        for case, finished in own.items():
            initial = start.get(Start.of(finished[0]))
            final = [runs[key].final_val_loss for key in finished]
            share = None if initial is None else relative_lr_sensitivity(final, initial)
            if initial is not None and share is not None:
                losses[case], shares[case] = lr_sensitivity(final, initial), share
        if losses:
            found.append(LrSensitivity(contestant, n_steps, losses, shares))
    return found


_Cells = Mapping[tuple[str, int], Mapping[Case, Mapping[RunKey, float]]]
_Runs = dict[tuple[str, int], dict[Case, list[RunKey]]]


def _grids(cells: _Cells, pruned: Collection[tuple[str, int]]) -> _Runs:
    """The runs of contestants that take an LR, over whole grids."""

    def kept() -> Iterator[tuple[tuple[str, int], dict[Case, list[RunKey]]]]:
        for (contestant, n_steps), own in cells.items():
            takes_lr = all(key.lr is not None for cell in own.values() for key in cell)
            if takes_lr and (contestant, n_steps) not in pruned and contestant != USERS_LR:
                yield (contestant, n_steps), {case: list(cell) for case, cell in own.items()}

    return dict(kept())


def _ours(cells: _Cells) -> _Runs:
    """The runs of our policy over three LRs that an optimizer carries, as one contestant's."""
    found: _Runs = {}
    for n_steps in sorted({n_steps for _, n_steps in cells}):
        variants = [cells.get((name, n_steps), {}) for name in WRONG_BY]
        shared = [case for case in variants[0] if all(case in own for own in variants)]
        if shared:
            found[OURS_WRONG, n_steps] = {case: [key for own in variants for key in own[case]] for case in shared}
    return found
