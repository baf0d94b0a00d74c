"""How long the page of a job of 100,000 steps takes to its first content.

    python -m benchmarks.dashboard --json dashboard.json --plot dashboard.png

A real server process, a headless Chromium, and jobs of both policies: `budget`, one search and one long decay, and
`autolrs`, dozens of stages with hundreds of probes and decisions. Each job has a copy for every run, so that no run
finds what another left in the server's memory.

- *server, first look*: from the request to the last byte, for a job that this server has not shown before: its history
  is read from SQLite, unpacked, laid out and thinned.
- *server, first look, CPU*: the time that the server's threads ran for it, whatever else ran.
- *server, again*: the same, once more; the job has not changed.
- *browser, bare page*: first contentful paint of a page that says one sentence, for a browser with an empty cache: what
  browser and machine take by themselves.
- *browser, first look*: first contentful paint of a job's page after that, of a job that was not shown before.
- *browser, again*: the same page, reloaded.

Both paints are also told as a ratio to the bare page of the same run: what is left where the machine is slow or busy.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import math
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import psutil
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.environment import environment
from tuner_server.access.principal import DEFAULT_PROJECT
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.messages import Directive, Outcome, Phase, Report, Validation
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage

PACKAGES = ("starlette", "uvicorn", "plotly", "playwright", "numpy")
"""Whose versions are told beside the figures."""
TOTAL_STEPS = 100_000
BUDGET_S = 0.3
POLICIES = ("budget", "autolrs")
START_TIMEOUT_S = 60.0
HOST = "127.0.0.1"
PAINT = """() => new Promise(resolve => new PerformanceObserver((list, observer) => {
    const found = list.getEntriesByName('first-contentful-paint')[0];
    if (found) { observer.disconnect(); resolve(found.startTime / 1000); }
}).observe({type: 'paint', buffered: true}))"""


@dataclasses.dataclass
class Training:
    """A loss that falls with the LR's logarithm as a bowl, and with steps as a power; with noise."""

    noise: random.Random
    gained: float = 0.0
    kept: float = 0.0

    def run(self, directive: Directive) -> Report:
        """Carries out a directive, or its next part."""
        assert directive.profile is not None
        if directive.restore:
            self.gained = self.kept
        if directive.snapshot:
            self.kept = self.gained
        n_steps = min(directive.report_every or directive.n_steps, directive.n_steps)
        losses = [self._step(directive.profile.lr(step)) for step in range(n_steps)]
        return Report(
            directive_number=directive.number,
            outcome=Outcome.COMPLETED if n_steps == directive.n_steps else Outcome.PARTIAL,
            losses=tuple(losses),
            validations=tuple(Validation(step=s, loss=self._loss()) for s in directive.validate_at if s <= n_steps),
            wall_time_s=n_steps * 0.01,
        )

    def _step(self, lr: float) -> float:
        self.gained += math.exp(-0.5 * (math.log(max(lr, 1e-12) / 0.02) / 1.5) ** 2)
        return self._loss() * (1.0 + self.noise.gauss(0.0, 0.03))

    def _loss(self) -> float:
        return 0.4 + 2.0 / math.sqrt(1.0 + self.gained / 200.0)


def fill(db: str, copies: int) -> dict[str, list[str]]:
    """Jobs in a database: their ids, by policy."""
    with open_storage(db) as storage, TunerService(storage) as service:
        return {
            policy: [run_job(service, policy) for _ in track(range(copies), f"jobs of {policy}")] for policy in POLICIES
        }


def run_job(service: TunerService, policy: str) -> str:
    """Runs a job to its end. Its id."""
    config = JobConfig(
        name=f"{policy}, {TOTAL_STEPS} steps",
        policy=policy,
        total_steps=TOTAL_STEPS,
        lr_bounds=LrBounds(min=1e-4, max=1.0),
        base_lr=0.1,
        has_validation=True,
    )
    training = Training(random.Random(0))
    job = service.create_job(DEFAULT_PROJECT, uuid.uuid4().hex, config)
    directive = job.state.directive
    while directive.phase is not Phase.STOP:
        directive = service.advance(DEFAULT_PROJECT, job.id, training.run(directive)).result()
    return job.id


@contextlib.contextmanager
def serving(db: str) -> Iterator[tuple[str, int]]:
    """A server with its dashboard: HOST:PORT of that, and the process."""
    with socket.create_server((HOST, 0)) as probe:
        http_address = f"{HOST}:{probe.getsockname()[1]}"
    command = [
        sys.executable,
        "-m",
        "tuner_server",
        "serve",
        "--listen",
        f"{HOST}:0",
        "--http",
        http_address,
        "--db",
        db,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on ")
        yield http_address, process.pid
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


def cpu_time(pid: int) -> float:
    """Seconds of processor time that a process and its children have taken so far (Linux)."""
    root = psutil.Process(pid)
    # The kernel's clock of a process, threads that have ended included: clock_getcpuclockid(3).
    return sum(time.clock_gettime(~process.pid << 3 | 2) for process in (root, *root.children(recursive=True)))


def server_time(address: str, job_id: str) -> float:
    """Seconds from the request to the last byte of a job's page."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=START_TIMEOUT_S)) as connection:
        connection.connect()
        start = time.perf_counter()
        connection.request("GET", f"/jobs/{job_id}", headers={"Accept": "text/html", "Accept-Encoding": "gzip"})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        return time.perf_counter() - start


def paint_times(browser: Browser, address: str, job_id: str) -> tuple[float, float, float]:
    """Seconds to the first contentful paint: of a page with hardly anything on it, of a job's page, and of it again."""
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(f"http://{address}/compare")
        bare = float(page.evaluate(PAINT))
        page.goto(f"http://{address}/jobs/{job_id}")
        first = float(page.evaluate(PAINT))
        page.locator("#chart.drawn").wait_for()
        page.reload()
        again = float(page.evaluate(PAINT))
        page.locator("#chart.drawn").wait_for()  # what it still asks for must not fall into the next measurement
        return bare, first, again


def measure(runs: int) -> list[dict[str, Any]]:
    """Times in seconds, one row for each policy and what was measured."""
    with tempfile.TemporaryDirectory() as directory:
        db = f"sqlite:///{Path(directory) / 'jobs.db'}"
        jobs = fill(db, 2 * runs)
        with serving(db) as (address, pid), sync_playwright() as playwright:
            path = shutil.which("chromium")
            assert path is not None, "Chromium is needed: apt-get install chromium"
            sandbox = os.geteuid() != 0
            with contextlib.closing(
                playwright.chromium.launch(executable_path=path, chromium_sandbox=sandbox)
            ) as browser:
                server_time(address, jobs[POLICIES[0]][0])  # templates are compiled once
                rows: dict[tuple[str, str], list[float]] = {}
                for policy in POLICIES:
                    for i in track(range(1, runs), f"pages of {policy}"):
                        before = cpu_time(pid)
                        first = server_time(address, jobs[policy][i])
                        cpu = cpu_time(pid) - before
                        again = server_time(address, jobs[policy][i])
                        bare, painted, repainted = paint_times(browser, address, jobs[policy][runs + i])
                        for name, value in (
                            ("server, first look", first),
                            ("server, first look, CPU", cpu),
                            ("server, again", again),
                            ("browser, bare page", bare),
                            ("browser, first look", painted),
                            ("browser, again", repainted),
                        ):
                            rows.setdefault((policy, name), []).append(value)
    return [*_timed(rows), *_ratios(rows)]


def _timed(rows: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """What was measured, in seconds."""
    return [
        {
            "policy": policy,
            "measure": name,
            "median_s": statistics.median(values),
            "min_s": min(values),
            "max_s": max(values),
            "within_budget": max(values) < BUDGET_S,
            "values_s": values,
        }
        for (policy, name), values in rows.items()
    ]


def _ratios(rows: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """The first paints of jobs' pages, each over that of the bare page of the same run."""
    found = []
    for policy in POLICIES:
        for name in ("browser, first look", "browser, again"):
            pairs = zip(rows[policy, name], rows[policy, "browser, bare page"], strict=True)
            values = [painted / bare for painted, bare in pairs]
            told = {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}
            found.append({"policy": policy, "measure": f"{name}, over the bare page", **told})
    return found


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("policy", "measure", "median", "lowest to highest")
    for row in rows:
        if "median_s" in row:
            spread = f"{row['min_s'] * 1e3:.0f} to {row['max_s'] * 1e3:.0f}"
            table.add_row(row["policy"], row["measure"], f"{row['median_s'] * 1e3:.0f} ms", spread)
        else:
            table.add_row(
                row["policy"], row["measure"], f"{row['median']:.2f}", f"{row['min']:.2f} to {row['max']:.2f}"
            )
    console.print(table)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    mpl.use("agg")
    from matplotlib import pyplot as plt  # after the choice of the backend

    rows = [row for row in rows if "median_s" in row]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    names = [f"{row['policy']}\n{row['measure']}" for row in rows]
    for i, row in enumerate(rows):
        axes.plot(
            [i] * len(row["values_s"]), [1e3 * value for value in row["values_s"]], "o", alpha=0.6, color="#0b63a5"
        )
        axes.plot([i - 0.25, i + 0.25], [1e3 * row["median_s"]] * 2, color="#ad4a06")
    axes.axhline(1e3 * BUDGET_S, linestyle="--", color="grey")
    axes.set_xticks(range(len(names)), names, fontsize="x-small", rotation=30, ha="right")
    axes.set(ylabel="ms", ylim=(0, None), title=f"A job's page, {TOTAL_STEPS:,} steps; dashed: the budget")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how long the page of a long job takes to its first content.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.png)")
    parser.add_argument("--runs", type=int, default=8, help="pages for each policy")
    arguments = parser.parse_args()

    rows = measure(arguments.runs + 1)
    show(rows, Console())
    measured_on = environment(*PACKAGES)
    arguments.json.write_text(json.dumps({"environment": measured_on, "results": rows}, indent=2) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
