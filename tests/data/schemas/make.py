"""Makes the database file of a schema version, with the code of the checkout that it is run in. See README.md."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import sys
from pathlib import Path

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

import tuner_server
from tests.support.jobs.simulated_training import SimulatedTraining
from tests.support.servers import server_process, wire_client
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.messages import Directive, Outcome, Phase, Report

TOTAL_STEPS = 400
OPTIONS = {
    "budget": {"probe_steps": 8, "refinements": 2, "max_candidates": 6},
    "autolrs": {"tau": 40, "tau_prime": 8, "tau_max": 80, "candidates": 3},
}
REPORTS = {"searching": 2, "training": 7, "cancelled": 3, "finished": 10_000}
"""How many reports bring a job to a state, at most; a job's name is its policy and its state."""

Stub = tuner_pb2_grpc.TunerServiceStub


def config(name: str, seed: int, *, bounds: bool = True) -> JobConfig:
    policy = name.partition("-")[0]
    return JobConfig(
        name=name,
        family="simulated",
        policy=policy,
        policy_options=OPTIONS[policy],
        total_steps=TOTAL_STEPS,
        lr_bounds=LrBounds(min=1e-3, max=0.5) if bounds else None,
        base_lr=0.1,
        seed=seed,
        has_validation=seed % 2 == 0,
    )


def run(stub: Stub, asked: JobConfig, n_reports: int) -> tuple[str, SimulatedTraining, Directive]:
    """Drives a job for so many reports, or to its end."""
    created = wire_client.create(stub, asked)
    training = SimulatedTraining(asked.seed, validates=asked.has_validation)
    directive = wire_client.directive_from_pb(created.directive)
    for _ in range(n_reports):
        if directive.phase is Phase.STOP:
            break
        directive = wire_client.advance(stub, created.job.id, training.run(directive))
    return created.job.id, training, directive


def replace(stub: Stub, job_id: str, training: SimulatedTraining, directive: Directive) -> None:
    """Reports ten steps of the client's own in place of a directive."""
    from tuner_server.core.messages import Replacement  # version 0001 has none

    assert directive.profile is not None
    own = Directive(number=directive.number, phase=Phase.TRAIN, n_steps=10, profile=directive.profile, restore=True)
    done = training.run(own)
    report = Report(
        directive_number=directive.number,
        outcome=Outcome.REPLACED,
        losses=done.losses,
        wall_time_s=done.wall_time_s,
        replacement=Replacement(profile=directive.profile, wasted_steps=4),
    )
    wire_client.advance(stub, job_id, report)


def doubt(stub: Stub, job_id: str, training: SimulatedTraining, directive: Directive) -> None:
    """Reports that a probe did not begin like the first one; `budget` has none in a run so short."""
    if directive.phase is not Phase.PROBE:
        return
    done = training.run(directive)
    report = Report(
        directive_number=directive.number, outcome=Outcome.UNREPEATABLE, losses=done.losses, note="a rollback"
    )
    wire_client.advance(stub, job_id, report)


def replan(stub: Stub, job_id: str, training: SimulatedTraining, directive: Directive) -> None:
    """Both sides change the plan: somebody at the server the end, which waits, and then the client, who anneals."""
    asked = pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_EXTEND, total_steps=TOTAL_STEPS + 50, reason="not there yet")
    stub.ChangePlan(pb.ChangePlanRequest(job_id=job_id, change=asked), timeout=30)
    changed = False
    while not (changed and directive.phase is Phase.TRAIN):
        directive = wire_client.advance(stub, job_id, training.run(directive))
        changed |= directive.change is not None
    done = training.run(directive.model_copy(update={"n_steps": 5, "validate_at": ()}))
    report = pb.Report(directive_number=directive.number, outcome=pb.OUTCOME_REPLANNED, losses=done.losses)
    report.change.CopyFrom(pb.PlanChange(kind=pb.PLAN_CHANGE_KIND_ANNEAL, anneal_steps=30))
    stub.Advance(pb.AdvanceRequest(job_id=job_id, report=report), timeout=30)
    stub.ChangePlan(pb.ChangePlanRequest(job_id=job_id, change=asked), timeout=30)


def main(target: Path) -> None:
    checkout = Path.cwd()
    if not Path(tuner_server.__file__).is_relative_to(checkout):
        sys.exit(f"{tuner_server.__file__} is not the code in {checkout}: set PYTHONPATH=.:client")
    if target.exists():
        sys.exit(f"{target} exists")
    seed = 0
    with server_process.running(f"sqlite:///{target.absolute()}") as server:
        for policy in OPTIONS:
            for state, n_reports in REPORTS.items():
                job_id, _, _ = run(server.stub, config(f"{policy}-{state}", seed), n_reports)
                seed += 1
                if state == "cancelled":
                    server.stub.CancelJob(pb.CancelJobRequest(job_id=job_id, reason="not needed"), timeout=30)
            run(server.stub, config(f"{policy}-searching-for-bounds", seed, bounds=False), 0)
            if hasattr(Outcome, "REPLACED"):
                replace(server.stub, *run(server.stub, config(f"{policy}-replaced", seed + 1), 3))
            if hasattr(Outcome, "UNREPEATABLE"):
                doubt(server.stub, *run(server.stub, config(f"{policy}-unrepeatable", seed + 1), 2))
            if hasattr(pb, "PlanChange"):
                replan(server.stub, *run(server.stub, config(f"{policy}-replanned", seed + 1), 2))
            seed += 2
        server.signal(signal.SIGTERM)
        server.wait()
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as database:
        # One file: what the write-ahead log holds goes into it.
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("VACUUM")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
