"""Whether a tuned run without bounds ends as well as the best of a sweep, on trainings that are drawn at random.

    python -m benchmarks.random_trainings --json random.json --plots images --workers 2

Networks, optimizers, batches, tasks and lengths are drawn; every optimizer has an LR of 0.001, and no range is given.
A training takes some ten seconds, its sweep included. What is done is kept in the cache, so that all of it can be
stopped and goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks import json_lines
from benchmarks.outputs import add_outputs, write
from benchmarks.pool import run_in_workers
from benchmarks.quality.__main__ import environment
from benchmarks.random_trainings.report import markdown, plot
from benchmarks.random_trainings.runs import Found, find

STORED = Path(__file__).parent / "data" / "found.jsonl"


def load(path: Path) -> dict[int, Found]:
    """What is kept, by number."""
    return {row["number"]: Found(**row) for row in json_lines.read(path)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_outputs(parser)
    parser.add_argument("--trainings", type=int, default=200, help="how many are drawn, from number --first on")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--cache", type=Path, default=STORED, help="JSON lines of what is done")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    numbers = range(arguments.first, arguments.first + arguments.trainings)
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    known = load(arguments.cache)
    missing = [number for number in numbers if number not in known]
    for _, found in run_in_workers("trainings", missing, find, str, arguments.workers):
        json_lines.append(arguments.cache, dataclasses.asdict(found))
    done = [found for number, found in sorted(load(arguments.cache).items()) if number in numbers]
    figures = {"environment": environment(), "trainings": [dataclasses.asdict(found) for found in done]}
    write(
        arguments, markdown(done), figures, lambda folder: plot(done).savefig(folder / "random-trainings.png", dpi=120)
    )


if __name__ == "__main__":
    main()
