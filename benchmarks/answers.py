"""What memory and time the answers about a long job take.

    python -m benchmarks.answers --json answers.json --plot answers.png

Jobs of 100,000, a million and ten million steps in few directives, and one of as many directives as a job may have,
with a search in every stage; written into a database as their reports would be, and a real server process for each.
Every answer is asked for alone, and then eight times at the same moment. What is measured is the server's resident
memory at its highest since the request began, the time until the last byte of the last answer, and the server's
processor time. Who comes too late for a long history is refused, and counted as such. At last a job that searched goes
back by one directive, for which the server replays it.

    python -m benchmarks.answers --json answers.json --steps 10000000 --directives --alone

is the job of ten million steps by itself, with one question at a time.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from lrpilot.errors import UnavailableError
from lrpilot.transport.grpc_transport import GrpcTransport
from lrpilot.v1 import tuner_pb2 as pb
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from benchmarks.long_jobs import LongJob, SearchingJob, WrittenJob
from tuner_server.core.job.machine import MAX_DIRECTIVES

PACKAGES = ("grpcio", "starlette", "uvicorn", "numpy", "sqlalchemy")
"""Whose versions are told beside the figures."""
SIZES = (100_000, 1_000_000, 10_000_000)
AT_ONCE = (1, 8)
HOST = "127.0.0.1"
TIMEOUT_S = 600.0
PAGES = {
    "page": "/jobs/{id}",
    "comparison": "/compare?job={id}",
    "curves": "/jobs/{id}/curves.json",
    "sparkline": "/jobs/{id}/sparkline.svg",
    "report.html": "/jobs/{id}/report.html",
    "data.csv": "/jobs/{id}/data.csv",
    "data.json": "/jobs/{id}/data.json",
    "schedule.json": "/jobs/{id}/schedule.json",
}
STREAM, REWIND = "StreamSchedule", "ResumeJob"


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


def rewind(target: str, job_id: str) -> int:
    """Has a job go back by one directive: the bytes of the answer."""
    with contextlib.closing(GrpcTransport(target)) as transport:
        job = transport.call(lambda: transport.stub.GetJob(pb.GetJobRequest(job_id=job_id))).job
        request = pb.ResumeJobRequest(
            job_id=job_id, directive_number=job.directive.number - 1, resume_id=uuid.uuid4().hex
        )
        return int(transport.call(lambda: transport.stub.ResumeJob(request, timeout=TIMEOUT_S)).ByteSize())


def asking(server: Server, job_id: str, name: str) -> Callable[[], int | None]:
    """What asks for an answer."""
    if name == REWIND:
        return lambda: rewind(server.target, job_id)
    if name == STREAM:
        return lambda: stream(server.target, job_id)
    return lambda: download(server.http_port, PAGES[name].format(id=job_id))


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


def measure(jobs: Sequence[WrittenJob], at_once: Sequence[int], console: Console) -> Iterator[dict[str, Any]]:
    """A row for each job, answer and number of those who ask."""
    for long_job in jobs:
        with tempfile.TemporaryDirectory() as directory:
            db = f"sqlite:///{Path(directory) / 'jobs.db'}"
            long_job.write(db)
            with contextlib.closing(Server(db)) as server:
                with contextlib.closing(GrpcTransport(server.target)) as transport:
                    job = transport.call(lambda: transport.stub.ListJobs(pb.ListJobsRequest())).jobs[0]
                steps = job.committed_steps + job.search_steps
                console.print(f"{long_job.label}: {steps:,} steps, {job.directive.number:,} directives")
                about = {"job": long_job.label, "steps": steps, "directives": job.directive.number}
                idle = server.peak_mib()
                # What was written without a search was not decided by the server, and can't be replayed by it.
                rewinds = (REWIND,) if isinstance(long_job, SearchingJob) else ()
                for name in (*PAGES, STREAM, *rewinds):
                    for n in (1,) if name == REWIND else at_once:
                        found = asked(server, asking(server, job.id, name), n)
                        yield {**about, "answer": name, "idle_mib": idle, **found}


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the figures."""
    table = Table("job", "answer", "at once", "refused", "MB", "seconds", "CPU s", "idle MiB", "peak MiB")
    for row in rows:
        table.add_row(
            row["job"],
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
    for job in dict.fromkeys(row["job"] for row in rows):
        for n, marker in zip(AT_ONCE, "o^", strict=True):
            found = [row for row in rows if (row["job"], row["at_once"]) == (job, n)]
            label = f"{job}, {n} at once"
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
    parser.add_argument("--steps", type=int, nargs="*", default=list(SIZES), help="lengths of the jobs")
    parser.add_argument("--directives", type=int, nargs="*", default=[MAX_DIRECTIVES], help="and numbers of directives")
    parser.add_argument("--alone", action="store_true", help="ask for nothing at the same moment")
    arguments = parser.parse_args()

    console = Console(width=110, stderr=True)
    jobs = [*map(LongJob, arguments.steps), *map(SearchingJob, arguments.directives)]
    rows = []
    for row in measure(jobs, AT_ONCE[:1] if arguments.alone else AT_ONCE, console):
        rows.append(row)
        console.print("{job}: {answer}, {at_once} at once: {seconds:.1f} s, {peak_mib:.0f} MiB".format(**row))
    show(rows, Console(width=110))
    measured_on = environment(*PACKAGES)
    arguments.json.write_text(json.dumps({"environment": measured_on, "results": rows}, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
