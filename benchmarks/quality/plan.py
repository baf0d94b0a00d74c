"""Which contestants run at which lengths, on which workloads and with how many seeds.

Two kinds of LRs follow from finished runs: those of `linear` above `LONGEST_FULL_SWEEP` steps, and those near its best.
So a plan is made in rounds: what can be planned is run, then it is planned again
(`benchmarks.quality.grid.run_rounds`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.quality.cases import Case
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.pruning import pruned, with_neighbours
from benchmarks.quality.refusals import refusal
from benchmarks.quality.results import RunKey
from benchmarks.quality.scores import ScoreFunction
from benchmarks.quality.sweeps import Sweep
from benchmarks.quality.users_lr import USERS_LR
from benchmarks.quality.workloads import USUAL, WORKLOADS, Workload

REFERENCE = "linear"
"""The schedule that all are compared with."""
OURS = "budget"
OURS_TO_ZERO = "budget, ending zero"
"""Ours without an average of the weights; with another range, another LR, and in ablations it ends so, too."""
LONGEST_FULL_SWEEP = 4000
"""Steps of the longest runs of which `linear` has the whole grid."""

N_SEEDS = 4
LENGTHS = (500, 1000, 2000, 4000, 8000, 20_000)
SENSITIVITY = (
    "budget, range x10",
    "budget, range /10",
    "budget, range wider",
    "budget, LR x30",
    "budget, LR /30",
)
"""Our policy with another range, or on an optimizer that carries another LR."""


class Entry(NamedTuple):
    """A contestant on a workload at a length; `reason` is why it is not run, or not yet."""

    contestant: str
    workload: str
    n_steps: int
    reason: str


@dataclass(frozen=True)
class Part:
    """Contestants that run at the same lengths, on the same workloads, with seeds 0 to `n_seeds` - 1.

    Where they take LRs, `near_best` has them run with the reference's best on average at that length and its
    neighbours on the grid, which are a factor of 3.2 away, instead of all of the grid; and with more where their own
    best one turns out to lie at the edge.
    """

    contestants: tuple[str, ...]
    lengths: tuple[int, ...]
    n_seeds: int
    workloads: tuple[Workload, ...]
    near_best: bool = False

    def cases(self, n_steps: int) -> Iterator[Case]:
        """Its cases at one of its lengths."""
        for seed in range(self.n_seeds):
            for workload in self.workloads:
                yield Case(workload.name, seed, n_steps)


@dataclass(frozen=True)
class Round:
    """What can be planned after some runs.

    Attributes:
        keys: The runs, contestant by contestant and length by length, so that an interrupted grid has the first ones
            complete.
        cases: By contestant and length, those that it runs in at the end.
        waiting: What follows from runs that are not there yet.
        refused: What is never run.
        pruned: The contestants and lengths whose sweeps lack LRs of the grid.
    """

    keys: tuple[RunKey, ...]
    cases: Mapping[tuple[str, int], frozenset[Case]]
    waiting: tuple[Entry, ...]
    refused: tuple[Entry, ...]
    pruned: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Plan:
    """All that is to be run.

    Attributes:
        parts: What the figures by length rest on.
        stored: What has tables of its own; those of `main_length` have the others beside it.
        main_length: Steps of the runs whose losses and LRs are drawn.
    """

    parts: tuple[Part, ...]
    stored: tuple[Part, ...]
    main_length: int

    @property
    def workloads(self) -> dict[str, Workload]:
        return {workload.name: workload for part in self._all_parts for workload in part.workloads}

    @property
    def lengths(self) -> list[int]:
        return sorted({n_steps for part in self.parts for n_steps in part.lengths})

    @property
    def contestants(self) -> list[str]:
        """Those of `parts`."""
        return [contestant for part in self.parts for contestant in part.contestants]

    @property
    def stored_contestants(self) -> frozenset[str]:
        """Those of `stored`."""
        return frozenset(contestant for part in self.stored for contestant in part.contestants)

    @property
    def score_functions(self) -> dict[str, ScoreFunction]:
        return {name: workload.score for name, workload in self.workloads.items()}

    @property
    def stored_lengths(self) -> list[int]:
        return sorted({n_steps for part in self.stored for n_steps in part.lengths})

    def stored_cases(self, n_steps: int) -> frozenset[Case]:
        """What `stored` rests on at one length."""
        return frozenset(case for part in self.stored if n_steps in part.lengths for case in part.cases(n_steps))

    def after(self, scores: Mapping[RunKey, float]) -> Round:
        """What can be planned when these runs are finished."""
        keys: dict[RunKey, None] = {}
        cases: dict[tuple[str, int], set[Case]] = {}
        waiting, refused = [], []
        for part, contestant, n_steps in self._blocks():
            lrs: dict[str, Collection[float | None]] = {}
            own = cases.setdefault((contestant, n_steps), set())
            for workload in part.workloads:
                if reason := refusal(contestant, workload, n_steps):
                    refused.append(Entry(contestant, workload.name, n_steps, reason))
                    continue
                own |= {case for case in part.cases(n_steps) if case.workload == workload.name}
                found = self._lrs(part, contestant, workload, n_steps, scores)
                if found is None:
                    waiting.append(Entry(contestant, workload.name, n_steps, f"follows from runs of {REFERENCE}"))
                else:
                    lrs[workload.name] = found
            for seed in range(part.n_seeds):
                for workload in part.workloads:
                    for lr in lrs.get(workload.name, ()):
                        keys[RunKey(workload.name, workload.version, contestant, lr, seed, n_steps)] = None
        frozen = {block: frozenset(own) for block, own in cases.items()}
        return Round(tuple(keys), frozen, tuple(waiting), tuple(refused), self._pruned)

    @property
    def _pruned(self) -> frozenset[tuple[str, int]]:
        return frozenset(
            (contestant, n_steps)
            for part, contestant, n_steps in self._blocks()
            if part.near_best or (contestant == REFERENCE and n_steps > LONGEST_FULL_SWEEP)
        )

    @property
    def _all_parts(self) -> tuple[Part, ...]:
        return (*self.parts, *self.stored)

    def _blocks(self) -> Iterator[tuple[Part, str, int]]:
        for part in self._all_parts:
            for contestant in part.contestants:
                for n_steps in part.lengths:
                    yield part, contestant, n_steps

    def _lrs(
        self, part: Part, contestant: str, workload: Workload, n_steps: int, scores: Mapping[RunKey, float]
    ) -> Collection[float | None] | None:
        """The LRs that a contestant runs with; None if that can't be said yet."""
        if contestant == REFERENCE:
            return self._reference_lrs(workload, n_steps, scores)
        if contestant != USERS_LR and not (part.near_best and CONTESTANTS[contestant].takes_lr):
            return CONTESTANTS[contestant].lrs(workload)
        sweep = self.reference_sweep(workload, n_steps, scores)
        if sweep is None:
            return None
        best = sweep.best_on_average()
        likely = set() if best is None else {best}
        if contestant == USERS_LR:
            return with_neighbours(workload.lr_grid, likely)
        return pruned(workload.lr_grid, likely, self._finished(contestant, workload, n_steps, scores))

    def _reference_lrs(
        self, workload: Workload, n_steps: int, scores: Mapping[RunKey, float]
    ) -> tuple[float, ...] | None:
        """The LRs of the reference; None if they can't be said yet."""
        if n_steps <= LONGEST_FULL_SWEEP:
            return workload.lr_grid
        shorter = self.reference_sweep(workload, LONGEST_FULL_SWEEP, scores)
        if shorter is None:
            return None
        return pruned(workload.lr_grid, shorter.best_lrs(), self._finished(REFERENCE, workload, n_steps, scores))

    def reference_sweep(self, workload: Workload, n_steps: int, scores: Mapping[RunKey, float]) -> Sweep | None:
        """The sweep of the reference with all planned seeds; None while runs of it are missing."""
        finished = self._finished(REFERENCE, workload, n_steps, scores)
        lrs = self._reference_lrs(workload, n_steps, scores)
        if not finished or lrs is None or not all(lr in own for own in finished.values() for lr in lrs):
            return None
        return Sweep({seed: {lr: own[lr] for lr in own if lr in lrs} for seed, own in finished.items()})

    def _finished(
        self, contestant: str, workload: Workload, n_steps: int, scores: Mapping[RunKey, float]
    ) -> dict[int, dict[float, float]]:
        """Scores of a contestant by seed and LR, as far as they are there; an entry for every planned seed."""
        n_seeds = max(
            (
                part.n_seeds
                for part, name, length in self._blocks()
                if (name, length) == (contestant, n_steps) and workload in part.workloads
            ),
            default=0,
        )

        def key(seed: int, lr: float) -> RunKey:
            return RunKey(workload.name, workload.version, contestant, lr, seed, n_steps)

        return {
            seed: {lr: scores[key(seed, lr)] for lr in workload.lr_grid if key(seed, lr) in scores}
            for seed in range(n_seeds)
        }


def _workloads(*names: str) -> tuple[Workload, ...]:
    return tuple(WORKLOADS[name] for name in names)


def _part(*contestants: str, lengths: tuple[int, ...]) -> Part:
    """A part on all workloads."""
    return Part(contestants, lengths, N_SEEDS, tuple(WORKLOADS.values()))


def _usual(*contestants: str, lengths: tuple[int, ...]) -> Part:
    """A part on the usual workloads, with three seeds."""
    return Part(contestants, lengths, 3, _workloads(*USUAL))


FULL = Plan(
    parts=(
        _part(REFERENCE, OURS, OURS_TO_ZERO, lengths=LENGTHS),
        replace(_part("linear, averaged", lengths=(1000, 4000)), near_best=True),
        _part("linear, user's LR", lengths=(500, 1000, 4000)),
        _part(*SENSITIVITY, lengths=(1000, 4000)),
        _part(
            "prodigy",
            "dog",
            "mechanic",
            "schedule_free, our LR",
            "greedy_lr",
            "autolrs",
            USERS_LR,
            lengths=(1000, 4000),
        ),
    ),
    stored=(
        _usual("constant", "cosine", "rex", "wsd", "step", "plateau", lengths=(4000,)),
        replace(_usual("cosine", "rex", "wsd", "step", "plateau", lengths=(1000,)), near_best=True),
        replace(_usual("wsd, 1 - sqrt", "one_cycle", lengths=(1000, 4000)), near_best=True),
        _usual(
            "lr_finder",
            "dadaptation",
            "dowg",
            "schedule_free",
            "adalrs",
            "greedy_lr, no min_lr",
            "hypergradient",
            "refined, second job",
            "budget, second job",
            lengths=(1000, 4000),
        ),
        _usual(
            "budget, no validation",
            "budget, fresh batches",
            "budget, constant probes",
            "budget, no decay",
            "budget, gamma 0",
            "budget, gamma 0.25",
            "budget, cosine",
            "budget, probes of 100",
            "budget, 1 refinement",
            "autolrs, last value",
            "autolrs, log EI",
            "autolrs, decayed probes",
            "autolrs, final decay",
            "autolrs, length exponent",
            "autolrs, all",
            lengths=(4000,),
        ),
    ),
    main_length=4000,
)
# The workloads with the cheapest steps, and one that a high LR ruins: a look within minutes.
QUICK = Plan(
    parts=(
        Part(
            (REFERENCE, OURS, "budget, LR x30"),
            lengths=(500, 1000),
            n_seeds=2,
            workloads=_workloads("mlp", "inpainting", "finetune", "dying"),
        ),
    ),
    stored=(),
    main_length=1000,
)
