"""The benchmark of idle connections holds what it says, opens again what was closed, and draws what it found."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from benchmarks.connections.__main__ import PERCENTILES, as_markdown, kinds, plot
from benchmarks.connections.holder import HOST, Kind, holding

TIMEOUT_S = 20.0
ROW = {
    "connections": "with",
    "held": 2000,
    "reopened": 12,
    "reports": 1234,
    "errors": {"UNAVAILABLE": 1},
    "latency_ms": {f"p{percentile:g}": percentile for percentile in PERCENTILES},
    "server_cpu_ms_per_report": 5.0,
    "server_rss_mib": 400.0,
}


def test_the_kinds_come_to_all_connections() -> None:
    assert sum(kind.n for kind in kinds(2000, 1, 2, 3)) == 2000


def test_what_the_server_closes_is_opened_again() -> None:
    with socket.create_server((HOST, 0)) as server:
        server.settimeout(TIMEOUT_S)
        with holding([Kind("silent", server.getsockname()[1], b"hello", 2)]) as holder:
            first, second = server.accept()[0], server.accept()[0]
            first.close()
            with server.accept()[0] as again, second:
                assert again.recv(5) == b"hello"
                deadline = time.monotonic() + TIMEOUT_S
                while (held := holder.held()).open != {"silent": 2}:
                    assert time.monotonic() < deadline
                assert held.reopened == 1


def test_the_figures_are_shown(tmp_path: Path) -> None:
    assert "| with | 2,000 | 12 | 1,234 | 1 | 50 | 90 | 99 | 99.9 | 5 | 400 |" in as_markdown([ROW])
    plot([ROW, ROW], tmp_path)
    assert (tmp_path / "connections.png").stat().st_size > 0
