"""What memory and time the answers about a long job take.

    python -m benchmarks.answers --json answers.json --plot answers.png

Jobs of 100,000, a million and ten million steps, written into a database as their reports would be, and a real server
process for each. Every answer is asked for alone, and then eight times at the same moment. What is measured is the
server's resident memory at its highest since the request began, the time until the last byte of the last answer, and
the server's processor time. Who comes too late for a long history is refused, and counted as such.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.profile import Profile, Shape
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.base.clock import utc_now
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.job import machine
from tuner_server.core.job.state import JobState, Status, Transition
from tuner_server.core.messages import Directive, Outcome, Phase, Report
from tuner_server.storage import Change, open_storage

PACKAGES = ("grpcio", "starlette", "uvicorn", "numpy", "sqlalchemy")
"""Whose versions are told beside the figures."""
SIZES = (100_000, 1_000_000, 10_000_000)
REPORT_STEPS = 500_000
"""Steps of a report: a twentieth of the longest job, as clients report."""
AT_ONCE = (1, 8)
HOST = "127.0.0.1"
TIMEOUT_S = 600.0
MIB = 2**20
PAGES = {
    "page": "",
    "curves": "/curves.json",
    "sparkline": "/sparkline.svg",
    "report.html": "/report.html",
    "data.csv": "/data.csv",
    "data.json": "/data.json",
    "schedule.json": "/schedule.json",
}
STREAM = "StreamSchedule"


@dataclasses.dataclass(frozen=True, slots=True)
class LongJob:
    """A job in a database, with so many steps in one row of committed ones."""

    n_steps: int

    @property
    def config(self) -> JobConfig:
        """A job whose range is known, so that it begins with what it is told here."""
        bounds = LrBounds(min=1e-3, max=1.0)
        return JobConfig(name=f"{self.n_steps} steps", total_steps=2 * self.n_steps, lr_bounds=bounds, base_lr=0.1)

    def directive(self, number: int, done: int) -> Directive:
        """What is left after `done` steps."""
        whole = self.n_steps + 1
        return Directive(
            number=number,
            phase=Phase.TRAIN,
            stage=0,
            n_steps=whole - done,
            profile=Profile.to_zero(Shape.parse("cosine"), 0.1, whole).after(done),
            snapshot=done == 0,
            report_every=REPORT_STEPS,
        )

    def state(self, state: JobState, directive: Directive, done: int) -> JobState:
        """The job with that directive."""
        update = {"directive": directive, "lease": directive, "committed_steps": done, "status": Status.TRAINING}
        return state.model_copy(update=update)

    def write(self, db: str) -> None:
        """Opens the job, and writes its reports."""
        noise = np.random.default_rng(0)
        opened, first = machine.create(self.config), self.directive(1, 0)
        begun = Transition(self.state(opened.state, first, 0), first)
        with contextlib.closing(open_storage(db)) as storage:
            job = storage.create(DEFAULT_PROJECT, uuid.uuid4().hex, "benchmark", b"", begun, utc_now())
            for done in range(0, self.n_steps, REPORT_STEPS):
                n = min(REPORT_STEPS, self.n_steps - done)
                steps = np.arange(done, done + n)
                losses = (2 / np.sqrt(1 + steps / 1000) + noise.normal(0, 0.05, n)).astype(np.float32)
                number = job.state.directive.number
                # The losses are not checked one by one: that takes far longer than to write them.
                report = Report(directive_number=number, outcome=Outcome.PARTIAL, losses=())
                report = report.model_copy(update={"losses": losses})
                following = self.directive(number + 1, done + n)
                change = Change(job, report, b"", Transition(self.state(job.state, following, done + n), following))
                (written,) = storage.record([change], utc_now())
                assert written is not None
                job = written


class Server:
    """A server process on a database."""

    def __init__(self, db: str) -> None:
        with socket.create_server((HOST, 0)) as probe:
            self.http_port = probe.getsockname()[1]
        command = [sys.executable, "-m", "tuner_server", "serve", "--db", db]
        command += ["--listen", f"{HOST}:0", "--http", f"{HOST}:{self.http_port}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.target = self._process.stdout.readline().removeprefix("listening on ").strip()

    def forget_peak(self) -> None:
        """Begins to look for the highest memory anew."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """The highest resident memory since then."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def cpu_s(self) -> float:
        """Processor time until now."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(TIMEOUT_S)


def download(port: int, path: str) -> int | None:
    """The bytes of an answer; None: it was refused, as too many were waiting."""
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        size = 0
        while part := response.read(2**16):
            size += len(part)
        assert response.status in (200, 503), response.status
        return size if response.status == 200 else None


def stream(target: str, job_id: str) -> int | None:
    """The bytes of a history over gRPC; None: it was refused."""
    with contextlib.closing(GrpcTransport(target)) as transport:
        request = pb.StreamScheduleRequest(job_id=job_id)
        try:
            messages = transport.stub.StreamSchedule(request, timeout=TIMEOUT_S)
            return transport.call(lambda: sum(message.ByteSize() for message in messages))
        except UnavailableError:
            return None


def asking(server: Server, job_id: str, name: str) -> Callable[[], int | None]:
    """What asks for an answer."""
    if name == STREAM:
        return lambda: stream(server.target, job_id)
    return lambda: download(server.http_port, f"/jobs/{job_id}{PAGES[name]}")


def asked(server: Server, ask: Callable[[], int | None], n: int) -> dict[str, Any]:
    """What it takes the server to answer so many who ask at once."""
    sizes: list[int | None] = []
    threads = [threading.Thread(target=lambda: sizes.append(ask())) for _ in range(n)]
    server.forget_peak()
    cpu_s, began = server.cpu_s(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered = [size for size in sizes if size is not None]
    assert answered
    return {
        "at_once": n,
        "refused": n - len(answered),
        "bytes": answered[0],
        "seconds": time.perf_counter() - began,
        "cpu_s": server.cpu_s() - cpu_s,
        "peak_mib": server.peak_mib(),
    }


def measure(sizes: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each job, answer and number of those who ask."""
    for n_steps in sizes:
        with tempfile.TemporaryDirectory() as directory:
            db = f"sqlite:///{Path(directory) / 'jobs.db'}"
            LongJob(n_steps).write(db)
            with contextlib.closing(Server(db)) as server:
                with contextlib.closing(GrpcTransport(server.target)) as transport:
                    job_id = transport.call(lambda: transport.stub.ListJobs(pb.ListJobsRequest())).jobs[0].id
                idle = server.peak_mib()
                for name in (*PAGES, STREAM):
                    for n in AT_ONCE:
                        found = asked(server, asking(server, job_id, name), n)
                        yield {"steps": n_steps, "answer": name, "idle_mib": idle, **found}


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the figures."""
    table = Table("steps", "answer", "at once", "refused", "MB", "seconds", "CPU s", "idle MiB", "peak MiB")
    for row in rows:
        table.add_row(
            f"{row['steps']:,}",
            row["answer"],
            str(row["at_once"]),
            str(row["refused"]),
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['cpu_s']:.1f}",
            f"{row['idle_mib']:.0f}",
            f"{row['peak_mib']:.0f}",
        )
    console.print(table)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the peaks."""
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for n_steps in dict.fromkeys(row["steps"] for row in rows):
        for n, marker in zip(AT_ONCE, "o^", strict=True):
            found = [row for row in rows if (row["steps"], row["at_once"]) == (n_steps, n)]
            label = f"{n_steps:,} steps, {n} at once"
            axes.plot([row["answer"] for row in found], [row["peak_mib"] for row in found], marker, label=label)
    axes.axhline(rows[0]["idle_mib"], linestyle="--", color="grey")
    axes.set(ylabel="MiB", ylim=(0, None), title="The server's memory at its highest; dashed: before any answer")
    axes.tick_params(axis="x", rotation=30)
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures, and writes what was found."""
    parser = argparse.ArgumentParser(description="Measures memory and time of the answers about a long job.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--steps", type=int, nargs="+", default=list(SIZES), help="lengths of the jobs")
    arguments = parser.parse_args()

    rows = list(measure(arguments.steps))
    show(rows, Console(width=110))
    measured_on = environment(*PACKAGES)
    arguments.json.write_text(json.dumps({"environment": measured_on, "results": rows}, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
