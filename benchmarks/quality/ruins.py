"""Ruined runs: those that end far above what a sweep reaches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.quality.cases import Case
from benchmarks.quality.results import RunKey

RUINED = 1.5
"""Times the score of the hindsight reference."""


@dataclass(frozen=True)
class Ruins:
    """The runs of some contestants, each over the hindsight reference of its case; there is at least one."""

    ratios: Mapping[RunKey, float]

    @classmethod
    def among(
        cls, keys: Iterable[RunKey], scores: Mapping[RunKey, float], hindsight: Mapping[Case, float]
    ) -> Ruins | None:
        """Those of `keys` that are finished and have a finite reference; None if none has."""
        ratios = {
            key: scores[key] / hindsight[Case.of(key)]
            for key in keys
            if key in scores and math.isfinite(hindsight.get(Case.of(key), math.inf))
        }
        return cls(ratios) if ratios else None

    @property
    def ruined(self) -> list[RunKey]:
        """Worst first."""
        return [key for key in sorted(self.ratios, key=self.ratios.__getitem__, reverse=True) if self._is_ruined(key)]

    @property
    def worst(self) -> RunKey:
        return max(self.ratios, key=self.ratios.__getitem__)

    def _is_ruined(self, key: RunKey) -> bool:
        return self.ratios[key] > RUINED
