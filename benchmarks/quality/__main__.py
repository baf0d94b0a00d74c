"""How close every contestant comes to the best linear decay of a grid.

    python -m benchmarks.quality --json quality.json --workers 2
    python -m benchmarks.quality --json quality.json --quick

Trains what the cache lacks, then reports on all of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.contestants import CONTESTANTS
from benchmarks.quality.grid import plan, run_all
from benchmarks.quality.plots import save_plots
from benchmarks.quality.report import as_json, as_markdown, make_report
from benchmarks.quality.results import ResultFile, RunKey
from benchmarks.quality.training import Curve
from benchmarks.quality.workloads import WORKLOADS


@dataclass(frozen=True)
class Scale:
    """What is trained, and the cache of it."""

    workloads: tuple[str, ...]
    contestants: tuple[str, ...]
    n_seeds: int
    n_steps: int
    cache: Path

    def planned(self) -> list[RunKey]:
        return plan(self.workloads, self.contestants, self.n_seeds, self.n_steps)


FULL = Scale(tuple(WORKLOADS), tuple(CONTESTANTS), 3, 4000, Path("out/bench/quality.jsonl"))
# The workloads with the cheapest steps, for a look within minutes.
QUICK = Scale(
    ("mlp", "inpainting", "finetune"),
    ("linear", "constant", "cosine", "budget", "autolrs"),
    1,
    1000,
    Path("out/bench/quality-quick.jsonl"),
)


def load(caches: Iterable[Path]) -> dict[RunKey, Curve]:
    """The runs of all caches; of a run that several have, the last one's."""
    return {key: curve for cache in caches for key, curve in ResultFile(cache).load().items()}


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
        help=f"JSON lines of finished runs; the first is extended, all are read (default: {FULL.cache}, {QUICK.cache})",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--quick", action="store_true", help="few contestants and workloads, one seed, short runs")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report what there is")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    scale = QUICK if arguments.quick else FULL
    caches = arguments.cache or [scale.cache]
    planned, done = scale.planned(), load(caches)
    if not arguments.report_only:
        caches[0].parent.mkdir(parents=True, exist_ok=True)
        run_all([key for key in planned if key not in done], ResultFile(caches[0]), arguments.workers)
        done = load(caches)
    report = make_report(planned, done)
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
