"""Latency of reports with thousands of connections that nobody uses, and without them, in one run.

    python -m benchmarks.connections --json connections.json --plots DIRECTORY

A server process with all its ports, on SQLite; jobs that report when their steps would be done (see `benchmarks.load`);
and windows of time, in turn without and with idle connections. These are of all kinds: some say nothing at all on
any port, some send half of a request's head, some agree on HTTP/2 and make no call. What the server closes is opened
again at once, so that the number is held.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.connections.holder import HOST, PREFACE, Held, Kind, holding
from benchmarks.load.clients import Clients, clients
from benchmarks.load.fleet import Arrival, Window
from benchmarks.load.latencies import merged, percentile_ms
from benchmarks.load.processes import serving, usage
from benchmarks.load.tally import Tally, together
from benchmarks.load.workload import Kind as Reported
from benchmarks.load.workload import plans
from benchmarks.outputs import add_outputs, write
from benchmarks.ports import free_port

SHARES = {"rpc, silent": 0.2, "rpc, HTTP/2 without calls": 0.38, "http, silent": 0.2, "http, half a head": 0.2}
"""The kinds' parts of all connections; the operators' port has the rest."""
SETTLE_S = 5.0
"""How long connections are held before a window begins."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
BUDGET_MS = 50.0
"""The goal for the 99th percentile."""
WITHOUT, WITH = "without", "with"


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One window."""

    tally: Tally
    server_cpu_s: float
    rss_mib: float
    """The server's memory at the end."""
    held: Held | None
    """What was held in the middle of it, and how often the server had closed one; None: nothing."""


def kinds(n: int, rpc: int, http: int, metrics: int) -> list[Kind]:
    """The connections of each kind, `n` in all."""
    counts = {name: round(share * n) for name, share in SHARES.items()}
    return [
        Kind("rpc, silent", rpc, b"", counts["rpc, silent"]),
        Kind("rpc, HTTP/2 without calls", rpc, PREFACE, counts["rpc, HTTP/2 without calls"], speaks_http2=True),
        Kind("http, silent", http, b"", counts["http, silent"]),
        Kind("http, half a head", http, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-", counts["http, half a head"]),
        Kind("metrics, silent", metrics, b"", n - sum(counts.values())),
    ]


def _measured(fleet: Clients, pid: int, window: Window) -> tuple[Tally, float, float]:
    before_s = usage(pid).cpu_s
    tally = fleet.run(window)
    after = usage(pid)
    return tally, after.cpu_s - before_s, after.rss_bytes / 2**20


def measure(n_idle: int, n_jobs: int, window: Window, rounds: int) -> dict[str, list[Part]]:
    """The windows, without and with idle connections in turn."""
    found: dict[str, list[Part]] = {WITHOUT: [], WITH: []}
    http, metrics = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="lrpilot-connections-") as directory:
        arguments = ("--http", f"{HOST}:{http}", "--metrics", f"{HOST}:{metrics}")
        with serving(f"sqlite:///{directory}/jobs.db", 1, Path(directory, "log"), *arguments) as server:
            rpc = int(server.target.rpartition(":")[2])
            with clients(server.target, plans(n_jobs, 0), 1) as fleet:
                fleet.run(Window(Arrival.PLACE))
                for _ in range(rounds):
                    found[WITHOUT].append(Part(*_measured(fleet, server.pid, window), None))
                    with holding(kinds(n_idle, rpc, http, metrics)) as holder:
                        time.sleep(SETTLE_S)
                        measured = _measured(fleet, server.pid, window)
                        found[WITH].append(Part(*measured, holder.held()))
    return found


def _row(name: str, parts: list[Part]) -> dict[str, Any]:
    tally = together([part.tally for part in parts])
    latencies = merged([tally.latencies[Reported.SEARCH], tally.latencies[Reported.PLAIN]])
    held = [part.held for part in parts if part.held is not None]
    return {
        "connections": name,
        "reports": tally.n_reports,
        "errors": tally.errors,
        "latency_ms": {f"p{percentile:g}": percentile_ms(latencies, percentile) for percentile in PERCENTILES},
        "server_cpu_ms_per_report": 1e3 * sum(part.server_cpu_s for part in parts) / max(tally.n_reports, 1),
        "server_rss_mib": max(part.rss_mib for part in parts),
        "held": min((sum(each.open.values()) for each in held), default=0),
        "held_by_kind": dict(held[-1].open) if held else {},
        "reopened": sum(each.reopened for each in held),
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    titles = ["idle connections", "held", "closed and opened again", "reports", "errors"]
    titles += [*(f"p{percentile:g}, ms" for percentile in PERCENTILES), "CPU a report, ms", "server, MiB"]
    lines = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * (len(titles) - 1)}"]
    for row in rows:
        cells = [row["connections"], f"{row['held']:,}", f"{row['reopened']:,}", f"{row['reports']:,}"]
        cells += [f"{sum(row['errors'].values())}", *(f"{value:.3g}" for value in row["latency_ms"].values())]
        cells += [f"{row['server_cpu_ms_per_report']:.3g}", f"{row['server_rss_mib']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], directory: Path) -> None:
    """Draws the percentiles beside each other, with the goal."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    names = list(rows[0]["latency_ms"])
    for i, row in enumerate(rows):
        places = [place + 0.4 * i - 0.2 for place in range(len(names))]
        label = f"{row['connections']} idle connections"
        axes.bar(places, list(row["latency_ms"].values()), 0.36, label=label)
    axes.axhline(BUDGET_MS, color="black", linewidth=1, linestyle="--", label=f"goal for p99: {BUDGET_MS:g} ms")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("latency of reports, ms")
    axes.legend()
    figure.savefig(directory / "connections.png", dpi=120)
    plt.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.connections", description=(__doc__ or "").split("\n")[0]
    )
    add_outputs(parser)
    parser.add_argument("--idle", type=int, default=2000, help="connections that are held")
    parser.add_argument("--jobs", type=int, default=64, help="live jobs")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each window")
    parser.add_argument("--step-ms", type=float, default=50.0, help="the time of a training step")
    parser.add_argument("--rounds", type=int, default=2, help="windows of each kind")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    window = Window(Arrival.SPREAD, arguments.seconds, arguments.step_ms / 1e3)
    found = measure(arguments.idle, arguments.jobs, window, arguments.rounds)
    rows = [_row(name, parts) for name, parts in found.items()]
    settings = {name: getattr(arguments, name) for name in ("idle", "jobs", "seconds", "step_ms", "rounds")}
    environment = {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "settings": settings}
    figures = {"environment": environment, "connections": rows}
    write(arguments, as_markdown(rows), figures, lambda directory: plot(rows, directory))


if __name__ == "__main__":
    main()
