"""How close every contestant comes to the best linear decay of a grid, at run lengths from 500 to 20,000 steps.

    python -m benchmarks.quality --json quality.json --workers 2
    python -m benchmarks.quality --json quality.json --quick

Trains what the caches lack, then reports on all of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.outputs import add_outputs, add_runs, write
from benchmarks.quality import initial_losses
from benchmarks.quality.figures import as_json
from benchmarks.quality.grid import run_all, run_rounds
from benchmarks.quality.markdown import as_markdown
from benchmarks.quality.plan import FULL, QUICK
from benchmarks.quality.plots import save_plots
from benchmarks.quality.report import make_report
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.training import Curve

STORED = Path(__file__).parent / "data" / "runs.jsonl"
FULL_CACHES = [Path("out/bench/quality.jsonl"), STORED]
QUICK_CACHES = [Path("out/bench/quality-quick.jsonl")]


def load(caches: Iterable[Path]) -> dict[RunKey, Curve]:
    """The runs of all caches; of a run that several have, the first one's."""
    runs: dict[RunKey, Curve] = {}
    for cache in caches:
        runs = ResultFile(cache).load() | runs
    return runs


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy")},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_outputs(parser)
    add_runs(parser, FULL_CACHES, QUICK_CACHES, "few contestants, workloads and seeds, short runs")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    caches = arguments.cache or (QUICK_CACHES if arguments.quick else FULL_CACHES)
    if not arguments.report_only:
        caches[0].parent.mkdir(parents=True, exist_ok=True)
        results = ResultFile(caches[0])
        run_rounds(plan, lambda: load(caches), lambda keys: run_all(keys, results, arguments.workers))
    report = make_report(plan, load(caches), initial_losses.load())
    text = as_markdown(report)
    figures = {"environment": environment(), **as_json(report)}
    write(arguments, text, figures, lambda directory: save_plots(report, directory))


if __name__ == "__main__":
    main()
