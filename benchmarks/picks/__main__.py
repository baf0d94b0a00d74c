"""Picks that policy `budget` would make with other constants, simulated on a table of probes.

python -m benchmarks.picks --json picks.json --markdown picks.md --plot picks.png

Trains the probes that the table lacks, then simulates everything from it and from finished linear decays.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.picks.evidence import gather
from benchmarks.picks.markdown import as_json, as_markdown
from benchmarks.picks.plot import plot
from benchmarks.picks.report import make_report
from benchmarks.picks.table import TableFile, complete, plan
from benchmarks.quality.__main__ import STORED, environment, load
from benchmarks.quality.scores import scores
from benchmarks.quality.workloads import WORKLOADS

STORED_TABLE = Path(__file__).parent / "data" / "probes.jsonl"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where the tables go, besides standard output")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--table", type=Path, default=STORED_TABLE, help="the table of probes, to complete")
    parser.add_argument(
        "--cache",
        type=Path,
        nargs="+",
        default=[STORED],
        help="JSON lines of runs that the quality benchmark finished; the first that has a run counts",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that train probes, one thread each")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    table = complete(plan(), TableFile(arguments.table), arguments.workers)
    runs = load(arguments.cache)
    found = scores(runs, {name: workload.score for name, workload in WORKLOADS.items()})
    report = make_report(gather(table, found), runs, found)
    markdown = as_markdown(report)
    print(markdown, end="")
    figures = {"environment": environment(), **as_json(report)}
    arguments.json.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(markdown, encoding="utf-8")
    if arguments.plot:
        plot(report.ideals).savefig(arguments.plot, dpi=120)


if __name__ == "__main__":
    main()
