"""Latency, throughput, processor time and memory of a server under N simulated jobs, and Optuna's proxy beside it.

    python -m benchmarks.load --sweep 1,8,64 --db both --json load.json --plot load.png

For every seed, database and number of jobs: a server process on an empty database, client processes with a channel for
each job, all jobs brought into the middle of their lives, and then windows of time. In a *spread* window a job reports
when its steps would be done; latency counts from then, so a server that stalls is charged for the reports that it held
up (coordinated omission). In a *burst* window it reports again at once. `workload.py` says what a job is, and which
reports count as answered by a search. Tables go to standard output, progress to standard error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.load import workload
from benchmarks.load.measure import POSTGRESQL, SQLITE, Measurement, Settings, databases, measure
from benchmarks.load.optuna_proxy import SAMPLERS, Contest, compete
from benchmarks.load.report import as_markdown, plot
from benchmarks.load.summary import compared, summarise

DATABASES = {SQLITE: (SQLITE,), POSTGRESQL: (POSTGRESQL,), "both": (SQLITE, POSTGRESQL)}
PACKAGES = ("grpcio", "sqlalchemy", "psycopg", "optuna", "torch")


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    jobs = parser.add_mutually_exclusive_group()
    jobs.add_argument("--jobs", type=int, help="so many live jobs")
    jobs.add_argument("--sweep", type=_counts, default=[1, 8, 64], help="several numbers of jobs: 1,8,64")
    parser.add_argument("--db", choices=DATABASES, default=SQLITE, help="PostgreSQL is one of its own")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each window")
    parser.add_argument("--step-ms", type=_numbers, default=[5.0, 50.0], help="training steps, a spread window each")
    parser.add_argument("--seeds", type=int, default=3, help="runs of everything")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    parser.add_argument("--clients", type=int, default=2, help="client processes")
    parser.add_argument("--optuna-most", type=int, default=64, help="the most studies for Optuna; 0: without it")
    parser.add_argument("--quick", action="store_true", help="8 jobs on SQLite, once and short")
    arguments = parser.parse_args()
    if arguments.jobs is not None:
        arguments.sweep = [arguments.jobs]
    if arguments.quick:
        arguments.sweep, arguments.db, arguments.seconds, arguments.seeds = [8], SQLITE, 3.0, 1
        arguments.step_ms = [5.0]
    return arguments


def run(arguments: argparse.Namespace, console: Console) -> tuple[list[Measurement], list[Contest]]:
    """Everything, seed by seed, so that what is compared is measured within minutes of each other."""
    kinds = DATABASES[arguments.db]
    settings = Settings(arguments.seconds, [ms / 1e3 for ms in arguments.step_ms], arguments.workers, arguments.clients)
    rivals = [n for n in arguments.sweep if n <= arguments.optuna_most and SQLITE in kinds]
    measurements: list[Measurement] = []
    contests: list[Contest] = []
    with Progress(console=console) as progress, databases(kinds) as available:
        task = progress.add_task("load", total=arguments.seeds * (len(kinds) * len(arguments.sweep) + 2 * len(rivals)))
        for seed in range(arguments.seeds):
            for n_jobs in arguments.sweep:
                for kind in kinds:
                    progress.update(task, description=f"{n_jobs} jobs on {kind}, seed {seed}")
                    measurements += measure(available, kind, n_jobs, seed, settings)
                    progress.advance(task)
                for sampler in SAMPLERS if n_jobs in rivals else ():
                    progress.update(task, description=f"{n_jobs} studies of Optuna, {sampler}, seed {seed}")
                    contests.append(
                        compete(available.directory, sampler, n_jobs, seed, arguments.seconds, arguments.clients)
                    )
                    progress.advance(task)
    return measurements, contests


def _environment(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "plot", "jobs", "quick")}
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "settings": settings,
        "workload": {
            "total_steps": workload.TOTAL_STEPS,
            "policies": workload.POLICIES,
            "lr_bounds": workload.LR_BOUNDS,
            "curves": len(workload.load_curves()),
        },
    }


def main() -> None:
    arguments = _arguments()
    console = Console(stderr=True)
    measurements, contests = run(arguments, console)
    rows, rivals = summarise(measurements), compared(contests, measurements)
    print(as_markdown(rows, rivals))
    results = {"environment": _environment(arguments), "load": rows, "optuna": rivals}
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.plot:
        plot(rows, rivals, arguments.plot)


if __name__ == "__main__":
    main()
