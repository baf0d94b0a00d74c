"""What an annealing gains by ending at a floor, with an average of the weights, in place of zero.

    python -m benchmarks.endings --json endings.json --seeds 5
    python -m benchmarks.endings --json stopped.json --seeds 3 --stopped

Every run is made twice through the real client, with the same seed: as the policies are, and with no annealing long
enough for an average. By default that is policy `open_ended`, annealed over the last fifth of 500, 1,000 and 2,000
steps, and taken back to before it each time but the last; with `--stopped` it is `budget` over 4,000 steps, stopped by
stop_when="3%". Runs that are in the file are not made again. Prints the ratios of the final losses.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lrpilot import Tuner

from benchmarks import json_lines
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.training import train_step
from benchmarks.quality.workloads import WORKLOADS, Session
from tuner_server.core.messages import MAX_STEPS
from tuner_server.core.stages import ending

ENDS = (500, 1000, 2000)
"""Steps at the ends of the annealings of one run, search included."""
ANNEALED = 0.2
"""The part of them that anneals."""
PLANNED = 4000
"""Steps of a run that may be stopped."""
NAMES = ("mlp", "convnet", "tinybatch", "inpainting", "finetune")


class AnnealedRun:
    """One run, which is annealed."""

    def __init__(self, name: str, seed: int, **arguments: Any) -> None:
        """Makes the tuner of a workload with these arguments."""
        self._session: Session = WORKLOADS[name].build(seed)
        torch.manual_seed(seed)
        self.transport = LocalTransport()
        self.tuner = Tuner(
            self._session.model,
            self._session.optimizer,
            transport=self.transport,
            lr_bounds=WORKLOADS[name].lr_range,
            validate=self._session.validate,
            seed=seed,
            **arguments,
        )
        self.undone = 0
        """Steps of annealings that were undone."""

    @property
    def steps(self) -> int:
        """Optimizer steps so far, without annealings that were undone."""
        return self.tuner.committed_step + self.tuner.search_steps - self.undone

    def train(self, until: int | None = None) -> None:
        """Trains up to the first step from `until` on that is not in a search; by default to the end."""
        session = self._session

        class Loader:
            def __iter__(self) -> Any:
                return session.batches()

        for batch in self.tuner.batches(Loader()):
            self.tuner.step(train_step(session, batch))
            if until is not None and self.steps >= until and not self.tuner.searching:
                break

    def judged(self) -> dict[str, Any]:
        """What the run has come to."""
        return {"loss": self._session.judge(), "adopted": self.tuner.adopted, "steps": self.steps}


def annealed(name: str, seed: int) -> dict[str, Any]:
    """The losses of a run without an end after each of its annealings."""
    run, found = AnnealedRun(name, seed, total_steps=None, policy="open_ended"), {}
    for end in ENDS:
        run.train(round((1.0 - ANNEALED) * end))
        n_steps = max(1, end - run.steps)
        run.tuner.anneal(n_steps)
        run.train()
        found[str(end)] = run.judged()
        if end < ENDS[-1]:
            run.tuner.undo_annealing()
            run.undone += n_steps
    run.tuner.close()
    return found


def stopped(name: str, seed: int) -> dict[str, Any]:
    """The loss of a run that is stopped; nothing, if it came to its planned end."""
    run = AnnealedRun(name, seed, total_steps=PLANNED, policy="budget", stop_when="3%")
    run.train()
    found = {"stopped": run.judged()} if run.steps < PLANNED else {}
    run.tuner.close()
    return found


def rows(runs: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: the loss with an average over that at zero, geometric means, with standard errors."""
    logs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for end, found in run["averaged"].items():
            logs[end][run["workload"]].append(math.log(found["loss"] / run["zero"][end]["loss"]))
    table = ["| annealed at | mean | the highest of one run | " + " | ".join(NAMES) + " |", "| --- " * 8 + "|"]
    for end, found in logs.items():
        means = [statistics.fmean(ratios) for ratios in found.values()]
        error = math.sqrt(sum(statistics.variance(r) / len(r) for r in found.values() if len(r) > 1)) / len(found)
        highest = max(max(ratios) for ratios in found.values())
        own = [f"{math.exp(statistics.fmean(found[name])):.3f}" if name in found else "-" for name in NAMES]
        mean = f"{math.exp(statistics.fmean(means)):.4f} ± {error:.2%}"
        table.append(f"| {end} | {mean} | {math.exp(highest):.3f} | " + " | ".join(own) + " |")
    return table


def main() -> None:
    """Makes the runs that are missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, required=True, help="JSON lines of finished runs, which are extended")
    parser.add_argument("--stopped", action="store_true", help="policy budget with stop_when")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    runs = list(json_lines.read(arguments.json))
    made = {(run["workload"], run["seed"]) for run in runs}
    make = stopped if arguments.stopped else annealed
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        for name in NAMES:
            if (name, seed) in made:
                continue
            with mock.patch.object(ending, "SHORTEST_AVERAGED", MAX_STEPS + 1):
                zero = make(name, seed)
            found = {"workload": name, "seed": seed, "zero": zero, "averaged": make(name, seed)}
            runs.append(found)
            json_lines.append(arguments.json, found)
    print("\n".join(rows(runs)))


if __name__ == "__main__":
    main()
