"""Regret of every rule that picks an LR, and error of every forecaster, on the oracle table.

python -m benchmarks.regret --tables oracle.jsonl --json regret.json --markdown regret.md --plot regret.png

Builds the states that the table file lacks, then computes everything from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.quality.workloads import WORKLOADS
from benchmarks.regret.build import build_all, plan
from benchmarks.regret.report import as_json, as_markdown, evaluate, plot
from benchmarks.regret.storage import TableFile


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where the tables go (.md)")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--tables", type=Path, default=Path("oracle.jsonl"), help="the oracle table, to extend")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="default: all")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    file = TableFile(arguments.tables)
    keys = plan(arguments.workload or WORKLOADS)
    done = file.load()
    missing = [key for key in keys if key not in done]
    if missing:
        build_all(missing, file, arguments.workers)
        done = file.load()
    report = evaluate([done[key] for key in keys])
    markdown = as_markdown(report)
    print(markdown)
    arguments.json.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(markdown + "\n", encoding="utf-8")
    if arguments.plot:
        plot(report, arguments.plot)


if __name__ == "__main__":
    main()
