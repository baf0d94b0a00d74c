"""Policy `budget` with seeds that nobody looked at, beside the best linear decay of a sweep.

    python -m benchmarks.quality.fresh_seeds --json fresh-seeds.json --plots out --steps 1000 --seeds 4 --workers 2

The constants of `budget` were chosen with seeds 0 to 3, which are those of the quality benchmark. Further seeds say
what it comes to with others, and all of them together make the standard error small. A further seed's sweep has the LRs
that are best with seeds 0 to 3 and their neighbours on the grid, and more where its own best one lies at the edge.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.outputs import add_outputs, write
from benchmarks.quality.__main__ import STORED, environment, load
from benchmarks.quality.cases import Case
from benchmarks.quality.figures import ratios_json
from benchmarks.quality.grid import run_all
from benchmarks.quality.plan import N_SEEDS, OURS, REFERENCE
from benchmarks.quality.pruning import pruned
from benchmarks.quality.ratios import Ratios
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.ruins import Ruins
from benchmarks.quality.scores import scores
from benchmarks.quality.sweeps import Sweep
from benchmarks.quality.tables import mean, ruined, table, worst
from benchmarks.quality.workloads import WORKLOADS, Workload

STORED_FRESH = STORED.parent / "fresh_seeds.jsonl"
CACHES = [Path("out/bench/fresh-seeds.jsonl"), STORED_FRESH, STORED]
GROUPS: Mapping[str, Collection[int]] = {
    f"0 to {N_SEEDS - 1}, the benchmark's": range(N_SEEDS),
    f"from {N_SEEDS} on": range(N_SEEDS, 10**6),
    "all": range(10**6),
}
"""Seeds that are reported together."""


def keys(scored: Mapping[RunKey, float], n_steps: int, seeds: Sequence[int]) -> list[RunKey]:
    """The runs that some further seeds take, as far as can be said; those that are there, too.

    They come seed by seed, so that an interrupted run has the first ones complete.
    """
    stored = range(N_SEEDS)
    found = []
    for seed in seeds:
        for workload in WORKLOADS.values():
            likely = Sweep({own: _sweep(scored, workload, own, n_steps) for own in stored}).best_lrs()
            lrs = pruned(workload.lr_grid, likely, {seed: _sweep(scored, workload, seed, n_steps)})
            found.append(_key(workload, OURS, None, seed, n_steps))
            found += [_key(workload, REFERENCE, lr, seed, n_steps) for lr in lrs]
    return found


def _key(workload: Workload, contestant: str, lr: float | None, seed: int, n_steps: int) -> RunKey:
    return RunKey(workload.name, workload.version, contestant, lr, seed, n_steps)


def _sweep(scored: Mapping[RunKey, float], workload: Workload, seed: int, n_steps: int) -> dict[float, float]:
    """The scores of a seed's sweep that are there."""
    runs = {lr: _key(workload, REFERENCE, lr, seed, n_steps) for lr in workload.lr_grid}
    return {lr: scored[key] for lr, key in runs.items() if key in scored}


@dataclasses.dataclass(frozen=True)
class Row:
    """What `budget` comes to at one length, with some seeds: over the best of the sweep."""

    n_steps: int
    seeds: str
    ratios: Ratios
    ruins: Ruins | None

    @property
    def by_workload(self) -> dict[str, float]:
        """The geometric mean over seeds."""
        return {name: own.mean for name in WORKLOADS if (own := self.ratios.of(name))}


def rows(scored: Mapping[RunKey, float], lengths: Sequence[int]) -> list[Row]:
    """A row for each length and group of seeds, as far as there are cases."""
    best: dict[Case, float] = {}
    for key, score in scored.items():
        if key.contestant == REFERENCE:
            best[Case.of(key)] = min(score, best.get(Case.of(key), math.inf))
    found = []
    for n_steps, (words, seeds) in itertools.product(lengths, GROUPS.items()):
        own = [key for key in scored if key.contestant == OURS and key.n_steps == n_steps and key.seed in seeds]
        ratios = Ratios.between({Case.of(key): scored[key] for key in own}, best)
        if ratios is not None:
            found.append(Row(n_steps, words, ratios, Ruins.among(own, scored, best)))
    return found


def as_markdown(found: Sequence[Row]) -> str:
    """The table."""
    header = ("steps", "seeds", "cases", f"{OURS} over the best of the sweep", "worst", "ruined")
    cells = [
        (
            f"{own.n_steps:,}",
            own.seeds,
            str(len(own.ratios.by_case)),
            mean(own.ratios),
            worst(own.ratios),
            ruined(own.ruins),
        )
        for own in found
    ]
    return f"{table(header, cells)}\n"


def draw(found: Sequence[Row]) -> Figure:
    """Every workload's mean, and all of theirs, with each group of seeds."""
    lengths = sorted({own.n_steps for own in found})
    figure = Figure(figsize=(5.5 * len(lengths), 5), layout="constrained")
    for axes, n_steps in zip(figure.subplots(1, len(lengths), squeeze=False)[0], lengths, strict=True):
        for i, own in enumerate(own for own in found if own.n_steps == n_steps):
            at = [place + 0.2 * (i - 1) for place in range(len(own.by_workload) + 1)]
            color = f"C{i}"
            axes.plot(list(own.by_workload.values()), at[1:], "o", color=color, label=own.seeds)
            axes.errorbar([own.ratios.mean], at[:1], xerr=[own.ratios.standard_error or 0.0], fmt="D", color=color)
            axes.set_yticks(range(len(at)), ["mean", *own.by_workload])
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set(title=f"{n_steps:,} steps", xlabel="final loss over the best linear decay of a sweep")
    axes.legend(frameon=False, title="seeds")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_outputs(parser)
    parser.add_argument("--steps", type=int, action="append", help="a length of runs (default: 1000)")
    parser.add_argument("--seeds", type=int, default=N_SEEDS, help=f"further seeds, from {N_SEEDS} on")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report what there is")
    arguments = parser.parse_args()
    lengths = arguments.steps or [1000]
    functions = {name: workload.score for name, workload in WORKLOADS.items()}
    CACHES[0].parent.mkdir(parents=True, exist_ok=True)
    while not arguments.report_only:
        runs = load(CACHES)
        scored = scores(runs, functions)
        wanted = [
            key for n_steps in lengths for key in keys(scored, n_steps, range(N_SEEDS, N_SEEDS + arguments.seeds))
        ]
        missing = [key for key in wanted if key not in runs]
        if not missing:
            break
        run_all(missing, ResultFile(CACHES[0]), arguments.workers)
    found = rows(scores(load(CACHES), functions), lengths)
    told = [{"n_steps": own.n_steps, "seeds": own.seeds, "ratio": ratios_json(own.ratios)} for own in found]
    figures = {"environment": environment(), "rows": told}
    write(arguments, as_markdown(found), figures, lambda folder: draw(found).savefig(folder / "fresh-seeds.png"))


if __name__ == "__main__":
    main()
