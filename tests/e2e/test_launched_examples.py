"""The examples in two processes, as launchers start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lrpilot
import pytest
from lrpilot.v1 import tuner_pb2 as pb

from tests.support.servers.server_process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ACCELERATE = ["accelerate.commands.launch", "--multi-gpu", "--num-processes=2", "--main-process-port=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "example", "total_steps"),
    [
        (TORCHRUN, "ddp.py", 1000),
        (TORCHRUN, "transformers_digits.py", 800),
        (TORCHRUN, "lightning_digits.py", 1000),
        (ACCELERATE, "accelerate_digits.py", 800),
    ],
    ids=["ddp", "transformers", "lightning", "accelerate"],
)
def test_an_example_trains_in_two_processes(
    shared_server: ServerProcess, tmp_path: Path, launcher: list[str], example: str, total_steps: int
) -> None:
    """The processes are one job, of which one process tells."""
    known = {job.id for job in jobs(shared_server)}
    ended = subprocess.run(
        [sys.executable, "-m", *launcher, EXAMPLES / example],
        cwd=tmp_path,
        env=os.environ | {"LRPILOT_SERVER": shared_server.target, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.count("search steps") == 1
    assert lrpilot.Schedule.load(tmp_path / "schedule.json").total_steps == total_steps
    [job] = [job for job in jobs(shared_server) if job.id not in known]
    assert job.state == pb.JOB_STATE_FINISHED


def jobs(server: ServerProcess) -> list[pb.Job]:
    return list(server.stub.ListJobs(pb.ListJobsRequest(page_size=1000), timeout=10).jobs)
