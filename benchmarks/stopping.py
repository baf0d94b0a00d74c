"""What stop_when saves and gives up: runs that may be stopped, beside the same runs to their end.

    python -m benchmarks.stopping --json stopping.json --workloads mlp finetune inpainting --steps 4000 --seeds 3
    python -m benchmarks.stopping --json endless.json --workloads mlp finetune --endless --seeds 3

Each run is made with policy `budget` through the real client, without stop_when and with several; a run that is there
in the file already is not made again. Prints one row for each workload and stop_when. With `--endless` the policy is
`open_ended`, and each run is made again with as many steps again, the last fifth of them an annealing.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lrpilot import Tuner
from lrpilot.v1 import tuner_pb2 as pb

from benchmarks import json_lines
from benchmarks.quality.local import LocalTransport
from benchmarks.quality.training import update
from benchmarks.quality.workloads import WORKLOADS
from tuner_server.core.job import machine
from tuner_server.core.stop_evidence import Stopping
from tuner_server.rpc import convert

WORTH = ("1%", "3%", "10%")
"""What is given as stop_when."""
ANNEALED = 0.2
"""The part of a run without an end that anneals."""
LONGEST = 20_000
"""Steps of a run without an end that is not stopped."""


class WatchedTransport(LocalTransport):
    """Keeps the evidence for a stopping."""

    evidence: Stopping | None = None

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        transition = machine.advance(self.state, convert.report_from_pb(request.report))
        if transition.decision is not None and transition.decision.stopping is not None:
            self.evidence = transition.decision.stopping
        self._state = transition.state
        return pb.AdvanceResponse(directive=convert.directive_to_pb(transition.directive))


def run(
    workload: str, seed: int, n_steps: int | None, worth: str | None, anneal_to: int | None = None
) -> dict[str, Any]:
    """Trains one run to its end; with `anneal_to` to that committed step, the last fifth annealed."""
    known = WORKLOADS[workload]
    session = known.build(seed)
    torch.manual_seed(seed)
    transport = WatchedTransport()
    opening = session.validate()
    tuner = Tuner(
        session.model,
        session.optimizer,
        transport=transport,
        total_steps=n_steps,
        lr_bounds=known.lr_range,
        policy="budget" if n_steps else "open_ended",
        validate=session.validate,
        stop_when=worth,
        seed=seed,
    )
    turn = None if anneal_to is None else round((1.0 - ANNEALED) * anneal_to)
    for batch in tuner.batches(session.batches()):
        tuner.step(update(session, batch))
        if anneal_to is not None and turn is not None and tuner.committed_step >= turn and not tuner.searching:
            tuner.anneal(max(anneal_to - tuner.committed_step, 1))
            turn = None
        if n_steps is None and transport.state.run_steps > LONGEST:
            break
    evidence = transport.evidence
    return {
        "workload": workload,
        "seed": seed,
        "n_steps": n_steps,
        "worth": worth,
        "anneal_to": anneal_to,
        "opening": opening,
        "final": session.validate(),
        "steps": transport.state.run_steps,
        "evidence": None if evidence is None else evidence.model_dump(),
    }


def runs_of(workload: str, seed: int, n_steps: int | None) -> Iterator[dict[str, Any]]:
    """The runs of a workload and a seed: those that may be stopped, and those that they are compared with."""
    if n_steps is not None:
        for worth in (None, *WORTH):
            yield run(workload, seed, n_steps, worth)
        return
    for worth in WORTH:
        stopped = run(workload, seed, None, worth)
        yield stopped
        if stopped["evidence"] is not None:
            longer = run(workload, seed, None, None, stopped["evidence"]["end_step"])
            yield {**longer, "beside": worth}


def rows(runs: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: means over the seeds of each workload and stop_when."""
    whole = {(r["workload"], r["n_steps"], r["seed"], r.get("beside")): r for r in runs if r["worth"] is None}
    cells: dict[tuple[str, str, str], list[tuple[float, float, float, bool]]] = defaultdict(list)
    for r in runs:
        beside = whole.get((r["workload"], r["n_steps"], r["seed"], None if r["n_steps"] else r["worth"]))
        if r["worth"] is None or beside is None or (r["n_steps"] is None and beside["steps"] > LONGEST):
            continue  # a run without an end that was cut off was not annealed
        gained = beside["opening"] - beside["final"]
        given_up = (r["final"] - beside["final"]) / gained
        foreseen = 0.0 if r["evidence"] is None else r["evidence"]["gain"] / gained
        case = r["workload"], str(r["n_steps"] or "no end"), r["worth"]
        cells[case].append((1.0 - r["steps"] / beside["steps"], given_up, foreseen, r["evidence"] is not None))
    table = [
        "| workload | steps | stop_when | stopped | steps saved | given up | the most of one run | foreseen |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (workload, n_steps, worth), found in sorted(cells.items()):
        saved, given_up, foreseen, ended = zip(*found, strict=True)
        mean = statistics.fmean
        table.append(
            f"| {workload} | {n_steps} | {worth} | {sum(ended)} of {len(ended)} | {mean(saved):.0%} | "
            f"{mean(given_up):.2%} | {max(given_up):.2%} | {mean(foreseen):.2%} |"
        )
    return table


def main() -> None:
    """Makes the runs that are missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, required=True, help="JSON lines of finished runs, which are extended")
    parser.add_argument("--workloads", nargs="+", default=["mlp", "finetune", "inpainting"], choices=sorted(WORKLOADS))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--endless", action="store_true", help="runs without an end")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    runs = list(json_lines.read(arguments.json))
    made = {(r["workload"], r["n_steps"], r["seed"]) for r in runs}
    n_steps = None if arguments.endless else arguments.steps
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        for workload in arguments.workloads:
            if (workload, n_steps, seed) in made:
                continue
            for found in runs_of(workload, seed, n_steps):
                runs.append(found)
                json_lines.append(arguments.json, found)
    print("\n".join(rows(runs)))


if __name__ == "__main__":
    main()
