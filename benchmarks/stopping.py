"""What stop_when saves and gives up: runs that may be stopped, beside the same runs to their end.

    python -m benchmarks.stopping --json stopping.json --workloads mlp finetune inpainting --steps 4000 --seeds 3

Each run is made with policy `budget` through the real client, without stop_when and with several; a run that is there
in the file already is not made again. Prints one row for each workload and stop_when.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from lrpilot import Tuner
from lrpilot.v1 import tuner_pb2 as pb

from benchmarks.quality.local import LocalTransport
from benchmarks.quality.workloads import WORKLOADS
from tuner_server.core.job import machine
from tuner_server.core.stop_evidence import Stopping
from tuner_server.rpc import convert

WORTH: tuple[str | None, ...] = (None, "1%", "3%", "10%")
"""What is given as stop_when; None: the run goes on to its end."""


class WatchedTransport(LocalTransport):
    """Keeps the evidence for a stopping."""

    evidence: Stopping | None = None

    def advance(self, request: pb.AdvanceRequest, timeout_s: float) -> pb.AdvanceResponse:
        transition = machine.advance(self.state, convert.report_from_pb(request.report))
        if transition.decision is not None and transition.decision.stopping is not None:
            self.evidence = transition.decision.stopping
        self._state = transition.state
        return pb.AdvanceResponse(directive=convert.directive_to_pb(transition.directive))


def run(workload: str, seed: int, n_steps: int, worth: str | None) -> dict[str, Any]:
    """Trains one run to its end, whichever that is."""
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
        policy="budget",
        validate=session.validate,
        stop_when=worth,
        seed=seed,
    )
    for batch in tuner.batches(session.batches()):
        loss = session.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        session.optimizer.step()
        session.optimizer.zero_grad()
        tuner.step(loss)
    evidence = transport.evidence
    return {
        "workload": workload,
        "seed": seed,
        "n_steps": n_steps,
        "worth": worth,
        "opening": opening,
        "final": session.validate(),
        "steps": transport.state.run_steps,
        "evidence": None if evidence is None else evidence.model_dump(),
    }


def rows(runs: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: means over the seeds of each workload and stop_when."""
    by_case = {(r["workload"], r["n_steps"], r["seed"], r["worth"]): r for r in runs}
    cells: dict[tuple[str, int, str], list[tuple[float, float, float, bool]]] = defaultdict(list)
    for (workload, n_steps, seed, worth), stopped in by_case.items():
        whole = by_case.get((workload, n_steps, seed, None))
        if worth is None or whole is None:
            continue
        gained = whole["opening"] - whole["final"]
        given_up = (stopped["final"] - whole["final"]) / gained
        foreseen = 0.0 if stopped["evidence"] is None else stopped["evidence"]["gain"] / gained
        saved = 1.0 - stopped["steps"] / whole["steps"]
        cells[workload, n_steps, worth].append((saved, given_up, foreseen, stopped["evidence"] is not None))
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
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    lines = arguments.json.read_text("utf-8").splitlines() if arguments.json.exists() else []
    runs = [json.loads(line) for line in lines]
    made = {(r["workload"], r["n_steps"], r["seed"], r["worth"]) for r in runs}
    torch.set_num_threads(1)
    for seed in range(arguments.seeds):
        for workload in arguments.workloads:
            for worth in WORTH:
                if (workload, arguments.steps, seed, worth) in made:
                    continue
                runs.append(run(workload, seed, arguments.steps, worth))
                with arguments.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    print("\n".join(rows(runs)))


if __name__ == "__main__":
    main()
