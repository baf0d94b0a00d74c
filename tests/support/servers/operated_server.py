"""What operators see of a running server."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers import server_process
from tests.support.servers.ports import HOST, free_port
from tests.support.servers.server_process import ServerProcess

PATIENCE_S = 60.0
Labels = tuple[tuple[str, str], ...]


class OperatedServer:
    """A server process, and its port for operators."""

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        with contextlib.closing(http.client.HTTPConnection(HOST, self.port, timeout=PATIENCE_S)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and findings."""
        status, body = self.get("/readyz")
        return status, json.loads(body)

    def metrics(self) -> dict[tuple[str, Labels], float]:
        """All samples by name and labels."""
        status, body = self.get("/metrics")
        assert status == 200
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """One sample."""
        return self.metrics()[name, tuple(sorted(labels.items()))]

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that serve: those that the fork server forked, which is the supervisor's child."""
        supervisor = self.process.process.pid
        found = psutil.Process(supervisor).children(recursive=True)
        return [process for process in found if process.ppid() != supervisor]


@contextlib.contextmanager
def operated(db: str, *arguments: str, **variables: str) -> Iterator[OperatedServer]:
    """A server that ends with the block."""
    port = free_port()
    with server_process.running(db, "--metrics", f"{HOST}:{port}", *arguments, **variables) as process:
        yield OperatedServer(process, port)
