"""Policy `budget` with seeds that nobody looked at, beside the best linear decay of a sweep.

    python -m benchmarks.quality.fresh_seeds --json fresh-seeds.json --plots out --steps 1000 --seeds 4 --workers 2

The constants of `budget` were chosen with seeds 0 to 3, which are those of the quality benchmark. Further seeds say
what it comes to with others, and all of them together make the standard error small. A further seed's sweep has the LRs
that are best with seeds 0 to 3 and their neighbours on the grid, and more where its own best one lies at the edge.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.outputs import add_outputs, write
from benchmarks.quality.__main__ import STORED, environment, load
from benchmarks.quality.cases import Case
from benchmarks.quality.grid import run_all
from benchmarks.quality.plan import N_SEEDS, OURS, REFERENCE
from benchmarks.quality.pruning import pruned
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.scores import scores
from benchmarks.quality.sweeps import Sweep
from benchmarks.quality.tables import table
from benchmarks.quality.workloads import WORKLOADS, Workload

STORED_FRESH = STORED.parent / "fresh_seeds.jsonl"
CACHES = [Path("out/bench/fresh-seeds.jsonl"), STORED_FRESH, STORED]
GROUPS: Mapping[str, Collection[int]] = {
    f"0 to {N_SEEDS - 1}, the benchmark's": range(N_SEEDS),
    f"from {N_SEEDS} on": range(N_SEEDS, 10**6),
    "all": range(10**6),
}
"""Seeds that are reported together."""
RUINED = 1.5


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


def ratios(scored: Mapping[RunKey, float]) -> dict[Case, float]:
    """The final score of `budget` over that of the best of the sweep, where there are both."""
    best: dict[Case, float] = {}
    for key, score in scored.items():
        if key.contestant == REFERENCE:
            best[Case.of(key)] = min(score, best.get(Case.of(key), math.inf))
    return {
        case: score / best[case]
        for key, score in scored.items()
        if key.contestant == OURS and (case := Case.of(key)) in best
    }


@dataclasses.dataclass(frozen=True)
class Row:
    """What `budget` comes to at one length, with some seeds."""

    n_steps: int
    seeds: str
    n_cases: int
    ratio: float
    """Geometric mean over workloads of that over seeds."""
    error: float | None
    """The standard error of its log: workloads are fixed, and seeds are the sample. None: there is one seed alone."""
    worst: float
    worst_case: str
    n_ruined: int
    by_workload: Mapping[str, float]
    """The geometric mean over seeds."""


def row(found: Mapping[Case, float], n_steps: int, words: str, seeds: Collection[int]) -> Row | None:
    """The row of some seeds; None: there is none of them."""
    own = {case: ratio for case, ratio in found.items() if case.n_steps == n_steps and case.seed in seeds}
    if not own:
        return None
    logs: dict[str, list[float]] = defaultdict(list)
    for case, ratio in own.items():
        logs[case.workload].append(math.log(ratio))
    means = {name: statistics.fmean(logs[name]) for name in WORKLOADS if name in logs}
    variances = [statistics.variance(values) / len(values) for values in logs.values() if len(values) > 1]
    worst = max(own, key=own.__getitem__)
    return Row(
        n_steps=n_steps,
        seeds=words,
        n_cases=len(own),
        ratio=math.exp(statistics.fmean(means.values())),
        error=math.sqrt(sum(variances)) / len(logs) if variances else None,
        worst=own[worst],
        worst_case=f"{worst.workload}, {worst.seed}",
        n_ruined=sum(ratio > RUINED for ratio in own.values()),
        by_workload={name: math.exp(mean) for name, mean in means.items()},
    )


def rows(found: Mapping[Case, float], lengths: Sequence[int]) -> list[Row]:
    """A row for each length and group of seeds, as far as there are cases."""
    possible = (row(found, n_steps, words, seeds) for n_steps in lengths for words, seeds in GROUPS.items())
    return [own for own in possible if own is not None]


def as_markdown(found: Sequence[Row]) -> str:
    """The table."""
    header = ("steps", "seeds", "cases", f"{OURS} over the best of the sweep", "worst", "ruined")
    cells = [
        (
            f"{own.n_steps:,}",
            own.seeds,
            str(own.n_cases),
            f"{own.ratio:.3f}" if own.error is None else f"{own.ratio:.3f} ±{own.error:.2%}",
            f"{own.worst:.3f} ({own.worst_case})",
            str(own.n_ruined),
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
            axes.errorbar([own.ratio], at[:1], xerr=[own.error or 0.0], fmt="D", color=color)
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
    found = rows(ratios(scores(load(CACHES), functions)), lengths)
    figures = {"environment": environment(), "rows": [dataclasses.asdict(own) for own in found]}
    write(arguments, as_markdown(found), figures, lambda folder: draw(found).savefig(folder / "fresh-seeds.png"))


if __name__ == "__main__":
    main()
