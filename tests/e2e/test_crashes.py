"""Servers are killed at random moments under many jobs: schedules come out as if nobody had been, and nothing is lost.

Every job compares for itself: `tests.support.crashes.checking_clients`. A plan of kills comes from a seed; a failure
prints it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.crashes import checking_clients, kill_plan
from tests.support.crashes.checking_clients import CheckingClients
from tests.support.crashes.server_fleet import ServerFleet, WorkerFleet
from tests.support.servers.fork_server import ForkServer

N_JOBS = 16
FEW, MANY = 4, 200
"""Kills."""


def kill_under_load(fleet: ServerFleet, n_kills: int, seed: int) -> None:
    """Kills servers by the plan of a seed, while 16 clients run one job after the other."""
    kills = kill_plan.plan(seed, n_kills, fleet.size)
    print(f"seed {seed}:", *kills, sep="\n")
    with CheckingClients(fleet.targets, checking_clients.configs(N_JOBS), seed) as jobs:
        kill_plan.carry_out(kills, fleet, jobs)
    assert jobs.ended >= N_JOBS
    assert jobs.refusals["UNAVAILABLE"] > 0  # somebody has met a server that was away
    assert "Traceback" not in fleet.log()


def test_one_server_that_is_killed_and_restarted(fork_server: ForkServer, sqlite_url: str, tmp_path: Path) -> None:
    with ServerFleet(fork_server, sqlite_url, 1, tmp_path) as fleet:
        kill_under_load(fleet, FEW, 1)


def test_three_servers_on_one_database_that_are_killed_in_turn(
    fork_server: ForkServer, postgresql_url: str, tmp_path: Path
) -> None:
    with ServerFleet(fork_server, postgresql_url, 3, tmp_path) as fleet:
        kill_under_load(fleet, FEW, 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("n_servers", [1, 2])
def test_many_kills_on_sqlite(fork_server: ForkServer, sqlite_url: str, n_servers: int, tmp_path: Path) -> None:
    with ServerFleet(fork_server, sqlite_url, n_servers, tmp_path) as fleet:
        kill_under_load(fleet, MANY, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_kills_on_postgresql(fork_server: ForkServer, postgresql_url: str, tmp_path: Path) -> None:
    with ServerFleet(fork_server, postgresql_url, 3, tmp_path) as fleet:
        kill_under_load(fleet, MANY, 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_kills_of_workers(fork_server: ForkServer, sqlite_url: str, tmp_path: Path) -> None:
    with WorkerFleet(fork_server, sqlite_url, 2, tmp_path) as fleet:
        kill_under_load(fleet, MANY, 5)


def test_a_seed_gives_one_plan() -> None:
    assert kill_plan.plan(7, 50, 3) == kill_plan.plan(7, 50, 3)
    assert kill_plan.plan(7, 50, 3) != kill_plan.plan(8, 50, 3)
