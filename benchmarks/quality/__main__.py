"""How close every contestant comes to the best linear decay of a grid, at run lengths from 500 to 20,000 steps.

    python -m benchmarks.quality --json quality.json --workers 2
    python -m benchmarks.quality --json quality.json --quick

Trains what the caches lack, then reports on all of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where the tables go, besides standard output")
    parser.add_argument("--plots", type=Path, help="directory for the plots")
    parser.add_argument(
        "--cache",
        type=Path,
        action="append",
        help=f"JSON lines of finished runs; the first is extended, all are read, the first that has a run counts "
        f"(default: {FULL_CACHES[0]} and the stored runs; {QUICK_CACHES[0]} with --quick)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--quick", action="store_true", help="few contestants, workloads and seeds, short runs")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report what there is")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    caches = arguments.cache or (QUICK_CACHES if arguments.quick else FULL_CACHES)
    if not arguments.report_only:
        caches[0].parent.mkdir(parents=True, exist_ok=True)
        results = ResultFile(caches[0])
        run_rounds(plan, lambda: load(caches), lambda keys: run_all(keys, results, arguments.workers))
    report = make_report(plan, load(caches))
    text = as_markdown(report)
    print(text, end="")
    figures = {"environment": environment(), **as_json(report)}
    _write(arguments.json, json.dumps(figures, indent=2, allow_nan=False) + "\n")
    if arguments.markdown:
        _write(arguments.markdown, text)
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        save_plots(report, arguments.plots)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
