"""All that is reported on picks: every variation in every case, what probes could tell, how far they scatter."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.progress import track

from benchmarks.picks.evidence import Evidence, Judged
from benchmarks.picks.ideal import Ideal, ideals
from benchmarks.picks.reality import Comparison, compare
from benchmarks.picks.scatter import Scatter, scatter
from benchmarks.picks.variations import VARIATIONS, Variation
from benchmarks.quality.cases import Case
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.results import RunKey
from benchmarks.quality.training import Curve
from benchmarks.quality.workloads import USUAL
from tuner_server.core.stages.decayed_probe import MIN_PROBE


@dataclass(frozen=True)
class Row:
    """A variation with what came of it, by case; without the cases in which it does not search."""

    variation: Variation
    judged: Mapping[Case, Judged]

    def ratios(self, n_steps: int, workloads: Collection[str]) -> Ratios | None:
        """Ratios to the best of the sweep at one length; None without cases."""
        own = {case: judged.ratio for case, judged in self._own(n_steps, workloads).items()}
        return Ratios(own) if own else None

    def search_share(self, n_steps: int, workloads: Collection[str]) -> float | None:
        """Mean part of the steps that the search takes; None likewise."""
        own = self._own(n_steps, workloads)
        return statistics.fmean(j.pick.search_steps / n_steps for j in own.values()) if own else None

    def _own(self, n_steps: int, workloads: Collection[str]) -> dict[Case, Judged]:
        return {c: own for c, own in self.judged.items() if c.n_steps == n_steps and c.workload in workloads}


@dataclass(frozen=True)
class Report:
    """All figures.

    Attributes:
        lengths: Steps of the runs, rising.
        usual: The usual workloads that there are cases of.
        hard: The others.
        rows: One for every variation.
        ideals: What probes of the usual workloads could tell.
        scatter: How far these scatter.
        comparisons: Their simulated picks beside real ones.
    """

    lengths: Sequence[int]
    usual: Sequence[str]
    hard: Sequence[str]
    rows: Sequence[Row]
    ideals: Sequence[Ideal]
    scatter: Scatter
    comparisons: Sequence[Comparison]

    @property
    def groups(self) -> list[str]:
        """What is varied."""
        return list(dict.fromkeys(row.variation.group for row in self.rows))

    def of_group(self, group: str) -> list[Row]:
        """The rows in which this is varied."""
        return [row for row in self.rows if row.variation.group == group]


def make_report(
    evidence: Evidence,
    runs: Mapping[RunKey, Curve],
    scores: Mapping[RunKey, float],
    variations: Sequence[Variation] = VARIATIONS,
) -> Report:
    """Simulates every variation in every case. Raises: ValueError: a usual workload has one seed only."""
    workloads = dict.fromkeys(case.workload for case in evidence.finals)
    usual = [name for name in workloads if name in USUAL]
    rows = []
    for variation in track(variations, "picks"):
        judged = {case: evidence.judge(case, variation) for case in evidence.finals}
        rows.append(Row(variation, {case: own for case, own in judged.items() if own}))
    return Report(
        evidence.lengths,
        usual,
        [name for name in workloads if name not in USUAL],
        rows,
        ideals(evidence, usual),
        scatter(evidence, usual, MIN_PROBE),
        compare(evidence, runs, scores, usual),
    )
