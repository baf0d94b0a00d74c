"""Regret of every rule that picks a peak LR in the middle of a run, on a table of states after changes.

python -m benchmarks.regret.later --json later.json --markdown later.md --plot later.png

Builds the states that the table file lacks, then computes everything from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.regret.later.build import QUICK, REST, build_all, load, plan
from benchmarks.regret.later.report import as_json, as_markdown, evaluate, plot

STORED_TABLE = Path(__file__).parent / "data" / "states.jsonl"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regret.later", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--markdown", type=Path, help="where the tables go (.md)")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--table", type=Path, default=STORED_TABLE, help="the table of states, to extend")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--workload", choices=QUICK, action="append", help="default: all")
    parser.add_argument("--rest", type=int, default=REST, help="steps ahead; some states have twice as many, too")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    keys = plan(arguments.workload or QUICK, arguments.rest)
    done = load(arguments.table)
    missing = [key for key in keys if key not in done]
    if missing:
        build_all(missing, arguments.table, arguments.workers)
        done = load(arguments.table)
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
