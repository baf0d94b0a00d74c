"""How close runs that change on the way come to those of an oracle that knew of the change.

    python -m benchmarks.onthefly --json onthefly.json
    python -m benchmarks.onthefly --json onthefly.json --quick

Trains what the caches lack, then reports on all of it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from benchmarks.onthefly.contestants import CONTESTANTS
from benchmarks.onthefly.figures import as_json
from benchmarks.onthefly.markdown import as_markdown
from benchmarks.onthefly.plan import Plan
from benchmarks.onthefly.plots import save_plots
from benchmarks.onthefly.report import make_report
from benchmarks.onthefly.runs import run_missing
from benchmarks.onthefly.scenarios import QUICK_SCENARIOS, SCENARIOS
from benchmarks.quality.__main__ import STORED as QUALITY
from benchmarks.quality.__main__ import environment, load
from benchmarks.quality.results import ResultFile

FULL = Plan(SCENARIOS, n_steps=2000, n_seeds=3)
QUICK = Plan(QUICK_SCENARIOS, n_steps=1000, n_seeds=1)
STORED = Path(__file__).parent / "data" / "runs.jsonl"
# Linear decays without a change are those of `benchmarks.quality`, where it has them.
FULL_CACHES = [Path("out/bench/onthefly.jsonl"), STORED, QUALITY]
QUICK_CACHES = [Path("out/bench/onthefly-quick.jsonl")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where the tables go, besides standard output")
    parser.add_argument("--plots", type=Path, help="directory for the plots")
    parser.add_argument("--steps", type=int, help=f"optimizer steps of a run (default: {FULL.n_steps})")
    parser.add_argument("--seeds", type=int, help=f"number of seeds (default: {FULL.n_seeds})")
    parser.add_argument(
        "--cache",
        type=Path,
        action="append",
        help=f"JSON lines of finished runs; the first is extended, all are read, the first that has a run counts "
        f"(default: {FULL_CACHES[0]} and the stored runs; {QUICK_CACHES[0]} with --quick)",
    )
    parser.add_argument(
        "--again",
        choices=CONTESTANTS,
        action="append",
        default=[],
        metavar="CONTESTANT",
        help="make its runs again, though there are finished ones",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--quick", action="store_true", help="one workload and seed a scenario, shorter runs")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report what there is")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    plan = replace(plan, n_steps=arguments.steps or plan.n_steps, n_seeds=arguments.seeds or plan.n_seeds)
    caches = arguments.cache or (QUICK_CACHES if arguments.quick else FULL_CACHES)
    done = {key: curve for key, curve in load(caches).items() if key.contestant not in arguments.again}
    if not arguments.report_only:
        caches[0].parent.mkdir(parents=True, exist_ok=True)
        run_missing(plan, done, ResultFile(caches[0]), arguments.workers)
    report = make_report(plan, done)
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
