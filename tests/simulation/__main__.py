"""Runs many histories, and says which were wrong: `python -m tests.simulation --histories 5000 --seed 1`."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path

import torch

from tests.simulation import episode

SHOWN_EVERY_S = 10.0
"""Between two lines that tell how far it is."""


@dataclasses.dataclass
class Round:
    """What came of many histories."""

    first_seed: int
    histories: int = 0
    calls: int = 0
    told: int = 0
    reports: int = 0
    jobs: int = 0
    lives: int = 0
    simulated_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    """The broken promises by seed."""

    def add(self, one: episode.Episode) -> None:
        """Counts a history."""
        self.histories += 1
        self.calls += one.n_calls
        self.told += one.n_told
        self.reports += one.counts.reports
        self.jobs += one.counts.jobs
        self.lives += one.counts.lives
        self.simulated_s += one.time_s
        self.faults += one.faults
        if one.violations:
            self.failures[one.seed] = one.violations

    def line(self) -> str:
        """How far it is, in a line."""
        faults = sum(self.faults.values())
        return (
            f"{self.histories} histories ({self.histories / max(self.wall_s, 1e-9):.1f} a second), {self.calls} calls, "
            f"{self.reports} reports, {faults} faults, {len(self.failures)} failed"
        )


def simulate(first_seed: int, *, histories: int | None, seconds: float | None, stop_at_first: bool) -> Round:
    """Runs the histories of this seed and the following ones: so many, or for so long."""
    found = Round(first_seed)
    began, cpu_began, shown = time.monotonic(), time.process_time(), 0.0
    for seed in itertools.count(first_seed):
        if found.histories == histories or (seconds is not None and time.monotonic() - began >= seconds):
            break
        one = episode.run(seed)
        found.add(one)
        found.wall_s, found.cpu_s = time.monotonic() - began, time.process_time() - cpu_began
        for words in one.violations:
            print(f"seed {seed}: {words}", flush=True)
        if time.monotonic() - shown > SHOWN_EVERY_S:
            shown = time.monotonic()
            print(found.line(), flush=True)
        if one.violations and stop_at_first:
            break
    return found


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, help="how many")
    parser.add_argument("--seconds", type=float, help="for how long, in place of a number")
    parser.add_argument("--seed", type=int, default=1, help="of the first history; the others follow")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--stop", action="store_true", help="end at the first history that is wrong")
    parser.add_argument("--words", action="store_true", help="tell all that happens in the history of the seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.words:
        one = episode.run(arguments.seed, words=True)
        print("\n".join([*(one.lines or []), *one.violations]))
        sys.exit(bool(one.violations))
    count = arguments.histories if arguments.histories or arguments.seconds else 1000
    found = simulate(arguments.seed, histories=count, seconds=arguments.seconds, stop_at_first=arguments.stop)
    print(found.line())
    for kind, n in found.faults.most_common():
        print(f"{n:9d}  {kind}")
    if found.failures:
        print(f"the first seed that failed: {min(found.failures)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(vars(found), indent=1) + "\n")
    sys.exit(bool(found.failures))


if __name__ == "__main__":
    main()
