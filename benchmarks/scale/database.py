"""What a long job leaves in a server's database, measured: a real server, SQLite, and losses without validations."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import NamedTuple

import grpc
from lrpilot.transport.embedded_server import EmbeddedServer
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.v1 import tuner_pb2_grpc

from benchmarks.scale.course import BASE_LR, BOUNDS
from tests.support.jobs.simulated_training import SimulatedTraining
from tuner_server.core.config import JobConfig
from tuner_server.rpc.convert import OUTCOMES, config_to_pb, directive_from_pb

_DEADLINE_S = 60.0


class Stored(NamedTuple):
    """What one job takes.

    Attributes:
        total_steps: Of the job.
        rows: Rows of all tables.
        nbytes: Bytes of the file, indexes and all.
    """

    total_steps: int
    rows: int
    nbytes: int


def stored(total_steps: int) -> Stored:
    """Runs a job of so many steps to its end on a server of its own, and looks at its file."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "jobs.db"
        with contextlib.closing(EmbeddedServer(f"sqlite:///{file}")) as server:
            before = _content(file)
            _run(server.target, total_steps)
            after = _content(file)
    return Stored(total_steps, after[0] - before[0], after[1] - before[1])


def _run(target: str, total_steps: int) -> None:
    job = JobConfig(policy="budget", total_steps=total_steps, lr_bounds=BOUNDS, base_lr=BASE_LR)
    training = SimulatedTraining(best_lr=BASE_LR)
    with grpc.insecure_channel(target) as channel:
        stub = tuner_pb2_grpc.TunerServiceStub(channel)
        created = stub.CreateJob(pb.CreateJobRequest(request_id="scale", config=config_to_pb(job)), timeout=_DEADLINE_S)
        directive = created.directive
        while directive.phase != pb.PHASE_STOP:
            made = training.run(directive_from_pb(directive))
            report = pb.Report(
                directive_number=made.directive_number,
                outcome=OUTCOMES[made.outcome],
                losses=made.losses,
                wall_time_s=made.wall_time_s,
            )
            request = pb.AdvanceRequest(job_id=created.job.id, report=report)
            directive = stub.Advance(request, timeout=_DEADLINE_S).directive


def _content(file: Path) -> tuple[int, int]:
    """Rows, and bytes of the pages that are in use."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = sum(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names)
        [(pages,)], [(size,)], [(free,)] = (
            connection.execute(f"PRAGMA {what}").fetchall() for what in ("page_count", "page_size", "freelist_count")
        )
    return rows, (pages - free) * size
