"""How close runs that change on the way come to those of an oracle that knew of the change.

    python -m benchmarks.onthefly --json onthefly.json
    python -m benchmarks.onthefly --json onthefly.json --quick

Trains what the caches lack, then reports on all of it.
"""

from __future__ import annotations

import argparse
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
from benchmarks.outputs import add_outputs, add_runs, write
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
    add_outputs(parser)
    add_runs(parser, FULL_CACHES, QUICK_CACHES, "one workload and seed a scenario, shorter runs")
    parser.add_argument("--steps", type=int, help=f"optimizer steps of a run (default: {FULL.n_steps})")
    parser.add_argument("--seeds", type=int, help=f"number of seeds (default: {FULL.n_seeds})")
    parser.add_argument(
        "--again",
        choices=CONTESTANTS,
        action="append",
        default=[],
        metavar="CONTESTANT",
        help="make its runs again, though there are finished ones",
    )
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
    figures = {"environment": environment(), **as_json(report)}
    write(arguments, text, figures, lambda directory: save_plots(report, directory))


if __name__ == "__main__":
    main()
