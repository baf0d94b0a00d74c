"""One point of the benchmark: so many jobs on one database, in both arrivals."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg

from benchmarks.load.clients import clients
from benchmarks.load.fleet import Arrival, Window
from benchmarks.load.processes import Postgres, postgresql, serving, upgrade, usage
from benchmarks.load.tally import Tally
from benchmarks.load.workload import plans

SQLITE, POSTGRESQL = "sqlite", "postgresql"
WARM_UP_SEED = 2**31
WARM_UP_JOBS = 16
"""Jobs for each process of the server: enough to occupy all its threads."""
WARM_UP_REPORTS = 12
"""Reports of each: past a search."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What all points share."""

    seconds: float
    """The length of each window."""
    steps_s: Sequence[float]
    """The times of a training step: there is a SPREAD window for each."""
    workers: int
    """Processes of the server."""
    client_processes: int

    @property
    def windows(self) -> list[Window]:
        """The windows in the order in which they are run: the lightest load first."""
        spread = [Window(Arrival.SPREAD, self.seconds, step_s) for step_s in sorted(self.steps_s, reverse=True)]
        return [*spread, Window(Arrival.BURST, self.seconds)]


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """One window at one point."""

    database: str
    n_jobs: int
    seed: int
    window: Window
    tally: Tally
    server_cpu_s: float
    database_cpu_s: float
    """The time of PostgreSQL's processes; SQLite is part of the server."""
    rss_per_job_bytes: float
    """What the server grew by with the jobs, a job. With few jobs it is what the process grows by itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Databases:
    """Makes empty databases."""

    directory: Path
    postgres: Postgres | None

    def url(self, database: str, name: str) -> str:
        """The URL of a new database of that kind."""
        if database == SQLITE:
            return f"sqlite:///{self.directory}/{name}.db"
        assert self.postgres is not None
        with psycopg.connect(self.postgres.uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        url = self.postgres.uri.replace("/postgres?", f"/{name}?")
        upgrade(url)
        return url

    def cpu_s(self, database: str) -> float:
        """Processor time that the database's own processes have used by now."""
        return usage(self.postgres.pid).cpu_s if database == POSTGRESQL and self.postgres else 0.0


@contextlib.contextmanager
def databases(kinds: Sequence[str]) -> Iterator[Databases]:
    """What the kinds need, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="lrpilot-load-") as directory, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(postgresql()) if POSTGRESQL in kinds else None
        yield Databases(Path(directory), postgres)


def measure(available: Databases, database: str, n_jobs: int, seed: int, settings: Settings) -> list[Measurement]:
    """Starts a server on an empty database, brings the jobs into the middle of their lives, and measures."""
    name = f"load_{n_jobs}_{seed}"
    url = available.url(database, name)
    log = available.directory / f"{database}-{name}.log"
    with serving(url, settings.workers, log) as server:
        _warm_up(server.target, settings.workers)
        before = usage(server.pid)
        with clients(server.target, plans(n_jobs, seed), settings.client_processes) as fleet:
            fleet.run(Window(Arrival.PLACE))
            rss_per_job = (usage(server.pid).rss_bytes - before.rss_bytes) / n_jobs
            found = []
            for window in settings.windows:
                server_cpu_s, database_cpu_s = usage(server.pid).cpu_s, available.cpu_s(database)
                tally = fleet.run(window)
                server_cpu_s = usage(server.pid).cpu_s - server_cpu_s
                database_cpu_s = available.cpu_s(database) - database_cpu_s
                found.append(
                    Measurement(database, n_jobs, seed, window, tally, server_cpu_s, database_cpu_s, rss_per_job)
                )
            return found


def _warm_up(target: str, workers: int) -> None:
    """What is loaded and allocated at the first use is so before anything is measured."""
    first = plans(WARM_UP_JOBS * workers, WARM_UP_SEED)
    with clients(target, [dataclasses.replace(plan, place=WARM_UP_REPORTS) for plan in first], 1) as fleet:
        fleet.run(Window(Arrival.PLACE))
