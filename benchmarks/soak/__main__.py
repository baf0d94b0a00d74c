"""A server under the traffic of a long time, on SQLite or PostgreSQL: memory, descriptors and bytes on the disk.

    python -m benchmarks.soak --hours 1 --json soak.json --plot soak.png

Jobs run to their ends, crash, resume and are cancelled, while people read pages and strangers send rubbish; every two
minutes whatever has ended is pruned. `bounds.py` says what may not rise. The exit code is 1 if something has, or if an
answer was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.progress import Progress

from benchmarks.load.processes import LRPILOT, free_address, postgresql, serving, upgrade
from benchmarks.soak.bounds import Finding, findings
from benchmarks.soak.observation import Sample, observed
from benchmarks.soak.traffic import Traffic
from tuner_server.storage import Database

SAMPLE_S = 5.0
PRUNE_S = 120.0
"""How often what has ended is deleted, and what is silent: in a year of an hour nobody comes back after a minute."""
SILENT_AFTER_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Soaked:
    """What came of a soak."""

    samples: list[Sample]
    findings: list[Finding]
    done: dict[str, int]
    """What was done, by kind."""
    faults: list[str]
    """Answers that were wrong."""

    @property
    def sound(self) -> bool:
        """Whether nothing has risen, and no answer was wrong."""
        return not self.faults and all(finding.kept for finding in self.findings)


def soak(seconds: float, kind: str, workers: int, seed: int, console: Console) -> Soaked:
    """Runs a server and its traffic for so long.

    Args:
        seconds: how long.
        kind: `sqlite` or `postgresql`.
        workers: processes of the server.
        seed: of the traffic.
        console: where progress is shown.
    """
    samples: list[Sample] = []
    with (
        tempfile.TemporaryDirectory(prefix="lrpilot-soak-") as directory,
        _database(kind, Path(directory)) as db,
        Database(db) as database,
    ):
        log = Path(directory, "log")
        page, operators = free_address(), free_address()
        with (
            serving(db, workers, log, "--http", page, "--metrics", operators) as server,
            Traffic(server.target, page, operators, seed) as traffic,
            Progress(console=console) as progress,
        ):
            task = progress.add_task(f"soak on {kind}", total=seconds)
            began, pruned = time.monotonic(), time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                time.sleep(min(SAMPLE_S, seconds - passed))
                samples.append(observed(server.pid, time.monotonic() - began, database, log))
                progress.update(task, completed=samples[-1].seconds)
                if time.monotonic() - pruned > min(PRUNE_S, seconds / 8):
                    traffic.faults += _prune(db)
                    pruned = time.monotonic()
    return Soaked(samples, findings(samples), dict(traffic.done), traffic.faults)


@contextlib.contextmanager
def _database(kind: str, directory: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'jobs.db'}"
        return
    with postgresql() as server:
        upgrade(server.uri)
        yield server.uri


def _prune(db: str) -> list[str]:
    """Deletes what has ended. Returns: what went wrong; nothing, as a rule."""
    environment = os.environ | {"LRPILOT_SILENT_AFTER_S": str(SILENT_AFTER_S)}
    command = [*LRPILOT, "jobs", "prune", "--older-than", "0", "--silent", "--db", db]
    done = subprocess.run(command, check=False, capture_output=True, env=environment, text=True)
    return [] if done.returncode == 0 else [f"prune: {done.stderr.strip()}"]


def table(soaked: Soaked) -> str:
    """The findings in Markdown."""
    lines = [
        "| quantity | second quarter | last quarter | bound | kept | rise in an hour, second half |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    lines += [
        f"| {each.quantity} | {each.second_quarter:.4g} | {each.last_quarter:.4g} | {each.bound:.4g} | "
        f"{'yes' if each.kept else 'NO'} | {each.trend:+.2g} ± {each.trend_error:.2g} |"
        for each in soaked.findings
    ]
    done = ", ".join(f"{count:,} {what}" for what, count in sorted(soaked.done.items()))
    faults = [f"- {fault}" for fault in soaked.faults]
    hours = soaked.samples[-1].seconds / 3600
    return "\n".join([*lines, "", f"{hours:.2f} hours: {done}; {len(faults)} faults.", *faults, ""])


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Draws each quantity over the time."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    quantities = [field.name for field in dataclasses.fields(Sample) if field.name != "seconds"]
    figure, axes = plt.subplots(len(quantities), 1, sharex=True, figsize=(8, 10), layout="constrained")
    minutes = [sample.seconds / 60 for sample in samples]
    for axis, quantity in zip(axes, quantities, strict=True):
        axis.plot(minutes, [getattr(sample, quantity) for sample in samples])
        axis.set_ylabel(quantity.replace("_", " "))
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--hours", type=float, default=1.0, help="how long")
    parser.add_argument("--db", choices=("sqlite", "postgresql"), default="sqlite", help="PostgreSQL is one of its own")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    return parser.parse_args()


def main() -> int:
    """Soaks, and tells. Returns: the exit code."""
    arguments = _arguments()
    soaked = soak(3600 * arguments.hours, arguments.db, arguments.workers, arguments.seed, Console(stderr=True))
    print(table(soaked))
    figures: dict[str, Any] = {
        "settings": {
            "hours": arguments.hours,
            "db": arguments.db,
            "workers": arguments.workers,
            "seed": arguments.seed,
        },
        "findings": [dataclasses.asdict(finding) | {"kept": finding.kept} for finding in soaked.findings],
        "done": soaked.done,
        "faults": soaked.faults,
        "samples": [dataclasses.asdict(sample) for sample in soaked.samples],
    }
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    if arguments.plot:
        plot(soaked.samples, arguments.plot)
    return 0 if soaked.sound else 1


if __name__ == "__main__":
    sys.exit(main())
