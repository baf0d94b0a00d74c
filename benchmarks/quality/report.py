"""All that is reported on the finished runs of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmarks.quality.cases import Case
from benchmarks.quality.initial_losses import Start
from benchmarks.quality.lr_pairs import LrPairs, lr_pairs
from benchmarks.quality.lr_sensitivity import LrSensitivity, lr_sensitivities
from benchmarks.quality.measures import Choice, Outcome, Progress, Standing, progress, standings
from benchmarks.quality.plan import OURS, OURS_TO_ZERO, REFERENCE, SENSITIVITY, Plan, Round
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.results import RunKey
from benchmarks.quality.ruins import Ruins
from benchmarks.quality.scores import scores
from benchmarks.quality.training import Curve
from benchmarks.quality.tuners import VARIANTS
from benchmarks.quality.users_lr import USERS_LR

DRAWN = ((REFERENCE, Choice.BEST), (OURS, Choice.ONLY), ("autolrs", Choice.ONLY))
DRAWN_SEED = 0
"""The seed whose losses are drawn over steps."""
ALL_OURS = f"{OURS}, with any range and LR"


@dataclass(frozen=True)
class Report:
    """All that is reported.

    Attributes:
        plan: What should be there.
        planned: The runs that can be planned so far.
        runs: Those of them that are finished.
        scores: Theirs.
        standings: Contestants by length, and there by mean ratio to the hindsight reference, lowest first.
        progress: Finished and planned runs by contestant and length.
        lr_sensitivities: What LRs that are not the best cost, by contestant and length.
    """

    plan: Plan
    planned: Round
    runs: Mapping[RunKey, Curve]
    scores: Mapping[RunKey, float]
    standings: Sequence[Standing]
    progress: Mapping[tuple[str, int], Progress]
    lr_sensitivities: Sequence[LrSensitivity]

    @property
    def workloads(self) -> list[str]:
        return list(self.plan.workloads)

    @property
    def lengths(self) -> list[int]:
        return self.plan.lengths

    @cached_property
    def hindsight(self) -> dict[Case, float]:
        """Scores of the hindsight reference."""
        return _reference(self.standings, Choice.BEST)

    @cached_property
    def picked(self) -> dict[Case, float]:
        """Scores of the reference that is picked on other seeds; infinite where that diverged."""
        return _reference(self.standings, Choice.PICKED)

    def standing(self, contestant: str, n_steps: int, choice: Choice = Choice.ONLY) -> Standing | None:
        found = (s for s in self.standings if (s.contestant, s.choice, s.n_steps) == (contestant, choice, n_steps))
        return next(found, None)

    def headline(self, n_steps: int) -> list[Standing]:
        """Standings at a length of what is planned by length."""
        return [s for s in self.standings if s.n_steps == n_steps and s.contestant in self.plan.contestants]

    @property
    def stored(self) -> list[Standing]:
        """Standings at the main length of what has tables of its own, and of the others over the same cases."""
        cases = self.plan.stored_cases(self.plan.main_length)
        own = (s.within(cases) for s in self.standings if s.contestant not in _variants())
        return self.ranked(standing for standing in own if standing)

    def ranked(self, standings: Iterable[Standing]) -> list[Standing]:
        """Standings by length, and there by mean ratio to the hindsight reference, lowest first."""
        return _ranked(standings, self.hindsight)

    @property
    def ablations(self) -> list[tuple[Standing, Standing]]:
        """Variants of a policy's options, each with the plain policy."""
        pairs = []
        for name, variant in VARIANTS.items():
            standing = self.standing(name, self.plan.main_length)
            plain = OURS_TO_ZERO if variant.policy == OURS else variant.policy
            base = self.standing(plain, self.plan.main_length)
            if standing and base and name in _variants() and name not in (OURS_TO_ZERO, *SENSITIVITY):
                pairs.append((standing, base))
        return pairs

    @property
    def drawn(self) -> list[Outcome]:
        """The outcomes whose losses are drawn over steps: at the main length, with one seed."""
        found = (self.standing(contestant, self.plan.main_length, choice) for contestant, choice in DRAWN)
        return [o for standing in found if standing for o in standing.outcomes if o.key.seed == DRAWN_SEED]

    def over_ours(self, contestant: str, n_steps: int) -> Ratios | None:
        """Scores of a contestant over those of our policy with the same ending; None without shared cases."""
        standing, ours = self.standing(contestant, n_steps), self.standing(OURS_TO_ZERO, n_steps)
        return Ratios.between(standing.scores, ours.scores) if standing and ours else None

    def ours_over(self, standing: Standing) -> Ratios | None:
        """Scores of our policy over those of a standing; None without shared cases."""
        ours = self.standing(OURS, standing.n_steps)
        return Ratios.between(ours.scores, standing.scores) if ours else None

    def ruins(self, standing: Standing) -> Ruins | None:
        """How many runs of a standing are ruined; None without a case that has a reference."""
        return Ruins.among((outcome.key for outcome in standing.outcomes), self.scores, self.hindsight)

    @property
    def ruins_by_name(self) -> dict[str, Ruins]:
        """How many runs are ruined over all lengths, by name of a standing.

        Last come the runs with a user's LR, and all of our policy together, whatever range and LR its user gave.
        """
        keys: dict[str, list[RunKey]] = {}
        for n_steps in self.lengths:
            for standing in self.headline(n_steps):
                keys.setdefault(standing.name, []).extend(outcome.key for outcome in standing.outcomes)
        keys[USERS_LR] = [key for key in self.runs if key.contestant == USERS_LR]
        keys[ALL_OURS] = [key for key in self.runs if key.contestant in (OURS, OURS_TO_ZERO, USERS_LR, *SENSITIVITY)]
        found = {name: Ruins.among(own, self.scores, self.hindsight) for name, own in keys.items()}
        return {name: ruins for name, ruins in found.items() if ruins}

    def lr_pairs(self, n_steps: int) -> LrPairs | None:
        """What our policy makes of tuned LRs at a length; None without any run."""
        return lr_pairs(self.planned.keys, self.scores, self._best_lrs(n_steps), n_steps)

    def _best_lrs(self, n_steps: int) -> dict[str, float]:
        """The LR of the reference with the best mean over seeds, by workload."""
        best = {}
        for workload in self.plan.workloads.values():
            sweep = self.plan.reference_sweep(workload, n_steps, self.scores)
            lr = sweep.best_on_average() if sweep else None
            if lr is not None:
                best[workload.name] = lr
        return best


def _variants() -> set[str]:
    """Names of all variants of a policy, without the plain ones."""
    return {name for name, variant in VARIANTS.items() if name != variant.policy}


def _reference(found: Sequence[Standing], choice: Choice) -> dict[Case, float]:
    own = (s for s in found if (s.contestant, s.choice) == (REFERENCE, choice))
    return {case: score for standing in own for case, score in standing.scores.items()}


def _ranked(found: Iterable[Standing], hindsight: Mapping[Case, float]) -> list[Standing]:
    """Standings by length, and there by mean ratio, lowest first."""

    def rank(standing: Standing) -> tuple[int, float]:
        ratios = Ratios.between(standing.scores, hindsight)
        return standing.n_steps, ratios.mean if ratios else math.inf

    return sorted(found, key=rank)


def make_report(plan: Plan, runs: Mapping[RunKey, Curve], start: Mapping[Start, float]) -> Report:
    """The report on those of `runs` that are planned.

    Args:
        plan: What should be there.
        runs: What is there.
        start: Losses at initialisation; runs from elsewhere have no LR sensitivity.
    """
    found = scores(runs, plan.score_functions)
    planned = plan.after(found)
    wanted = {key: runs[key] for key in planned.keys if key in runs}
    own = standings(planned.keys, wanted, found, planned.pruned)
    return Report(
        plan,
        planned,
        wanted,
        {key: found[key] for key in wanted},
        _ranked(own, _reference(own, Choice.BEST)),
        progress(planned.keys, wanted),
        lr_sensitivities(planned.keys, wanted, found, start, planned.pruned),
    )
