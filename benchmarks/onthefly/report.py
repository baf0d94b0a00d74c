"""All that is reported on the finished runs of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.onthefly.plan import Plan, Round
from benchmarks.onthefly.scenarios import Scenario
from benchmarks.onthefly.workloads import WORKLOADS
from benchmarks.quality.cases import Case
from benchmarks.quality.measures import Choice, Outcome, Standing, standings
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.results import RunKey
from benchmarks.quality.scores import scores
from benchmarks.quality.training import Curve

_SHOWN = (Choice.BEST, Choice.PICKED, Choice.ONLY)


@dataclass(frozen=True)
class ScenarioReport:
    """What came of one scenario.

    Attributes:
        scenario: What happened.
        n_steps: The optimizer steps of its runs.
        n_cases: Workloads times seeds.
        standings: Contestants, those with a sweep twice: with the best LR in hindsight and with that of other seeds.
    """

    scenario: Scenario
    n_steps: int
    n_cases: int
    standings: Sequence[Standing]

    @cached_property
    def reference(self) -> dict[Case, float]:
        """Scores of the best of the reference's sweep."""
        own = (s for s in self.standings if (s.contestant, s.choice) == (self.scenario.reference, Choice.BEST))
        return {case: score for standing in own for case, score in standing.scores.items()}

    @cached_property
    def hindsight(self) -> dict[Case, float]:
        """The lowest score of all that was swept."""
        lowest: dict[Case, float] = {}
        for standing in self.standings:
            if standing.choice is Choice.BEST:
                for case, score in standing.scores.items():
                    lowest[case] = min(score, lowest.get(case, math.inf))
        return lowest

    def to_reference(self, standing: Standing) -> Ratios | None:
        """Scores over those of the reference; None without shared cases."""
        return Ratios.between(standing.scores, self.reference)

    def to_hindsight(self, standing: Standing) -> Ratios | None:
        """Scores over the lowest ones of all that was swept; None without shared cases."""
        return Ratios.between(standing.scores, self.hindsight)

    @property
    def ranked(self) -> list[Standing]:
        """The standings by mean ratio to the reference, lowest first."""

        def rank(standing: Standing) -> float:
            ratios = self.to_reference(standing)
            return ratios.mean if ratios else math.inf

        return sorted(self.standings, key=rank)

    @property
    def at_edges(self) -> dict[str, int]:
        """In how many cases the best LR lies at the edge of the sweep, by contestant, where there are any."""
        found: dict[str, int] = {}
        for standing in self.standings:
            if standing.choice is Choice.BEST:
                n_edges = sum(map(_at_edge, standing.outcomes))
                if n_edges:
                    found[standing.contestant] = n_edges
        return found


def _at_edge(outcome: Outcome) -> bool:
    lrs = WORKLOADS[outcome.key.workload].lrs
    return outcome.key.lr in (lrs[0], lrs[-1])


@dataclass(frozen=True)
class Report:
    """What came of all scenarios.

    Attributes:
        plan: What should be there.
        planned: The runs that can be planned so far.
        runs: Those of them that are finished.
        scenarios: One report each.
    """

    plan: Plan
    planned: Round
    runs: Mapping[RunKey, Curve]
    scenarios: Sequence[ScenarioReport]


def make_report(plan: Plan, runs: Mapping[RunKey, Curve]) -> Report:
    """The report on those of `runs` that are planned."""
    found = scores(runs, plan.score_functions)
    planned = plan.after(found)
    own = []
    for scenario in plan.scenarios:
        keys = planned.by_scenario[scenario.name]
        shown = [s for s in standings(keys, runs, found) if s.choice in _SHOWN]
        n_cases = len(scenario.workloads) * plan.n_seeds
        own.append(ScenarioReport(scenario, scenario.steps(plan.n_steps), n_cases, shown))
    return Report(plan, planned, {key: runs[key] for key in planned.keys if key in runs}, own)
