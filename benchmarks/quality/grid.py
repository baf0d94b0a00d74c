"""Runs every contestant on every workload, seed and LR that the result file lacks.

python -m benchmarks.quality.grid --steps 4000 --seeds 3 --workers 2 --out grid.jsonl
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.pool import run_in_workers
from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.plan import Plan
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.scores import scores
from benchmarks.quality.training import Curve
from benchmarks.quality.workloads import WORKLOADS


def plan(workloads: Iterable[str], contestants: Iterable[str], n_seeds: int, n_steps: int) -> list[RunKey]:
    """All runs, contestant by contestant, so that an interrupted grid has the first ones complete."""
    chosen = [WORKLOADS[name] for name in workloads]
    return [
        RunKey(workload.name, workload.version, contestant, lr, seed, n_steps)
        for contestant in contestants
        for seed in range(n_seeds)
        for workload in chosen
        for lr in CONTESTANTS[contestant].lrs(workload)
    ]


def run(key: RunKey) -> Curve:
    """Trains one run of the grid."""
    contestant, workload = CONTESTANTS[key.contestant], WORKLOADS[key.workload]
    return contestant.run(workload, key.lr, key.n_steps, key.seed)


def run_all(keys: Sequence[RunKey], results: ResultFile, n_workers: int) -> None:
    """Runs `keys` in worker processes and stores each result as soon as it is there."""
    for key, curve in run_in_workers("grid", keys, run, lambda k: f"{k.contestant} {k.workload}", n_workers):
        results.append(key, curve)


def run_rounds(
    plan: Plan, load: Callable[[], Mapping[RunKey, Curve]], run_keys: Callable[[Sequence[RunKey]], None]
) -> None:
    """Runs what can be planned and plans again, until every planned run is there.

    Args:
        plan: What is to be run.
        load: Gives all finished runs.
        run_keys: Runs what is missing, so that `load` has it afterwards.
    """
    while True:
        done = load()
        missing = [key for key in plan.after(scores(done, plan.score_functions)).keys if key not in done]
        if not missing:
            return
        run_keys(missing)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps of a run")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, required=True, help="JSON-lines file to extend")
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="default: all")
    parser.add_argument("--schedule", choices=CONTESTANTS, action="append", help="default: all")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    results = ResultFile(arguments.out)
    done = results.load()
    keys = plan(
        arguments.workload or WORKLOADS,
        arguments.schedule or CONTESTANTS,
        arguments.seeds,
        arguments.steps,
    )
    run_all([key for key in keys if key not in done], results, arguments.workers)


if __name__ == "__main__":
    main()
