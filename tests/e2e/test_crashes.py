"""Servers are killed at random moments under many jobs: schedules come out as if nobody had been, and nothing is lost.

What is compared, by every job for itself, is in `tests.support.crowd`. A plan of kills comes from a seed; a failure
prints it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import crashes, crowd
from tests.support.crowd import Crowd
from tests.support.fleet import Fleet, WorkerFleet
from tests.support.zygote import Zygote

N_JOBS = 16
FEW, MANY = 4, 200
"""Kills."""


def kill_under_load(fleet: Fleet, n_kills: int, seed: int) -> None:
    """Kills servers by the plan of a seed, while jobs follow each other in 16 lanes."""
    kills = crashes.plan(seed, n_kills, fleet.size)
    print(f"seed {seed}:", *kills, sep="\n")
    with Crowd(fleet.targets, crowd.configs(N_JOBS), seed) as jobs:
        crashes.carry_out(kills, fleet, jobs)
    assert jobs.ended >= N_JOBS
    assert jobs.refusals["UNAVAILABLE"] > 0  # somebody has met a server that was away
    assert "Traceback" not in fleet.log()


def test_one_server_that_is_killed_and_restarted(zygote: Zygote, sqlite_url: str, tmp_path: Path) -> None:
    with Fleet(zygote, sqlite_url, 1, tmp_path) as fleet:
        kill_under_load(fleet, FEW, 1)


def test_three_servers_on_one_database_that_are_killed_in_turn(
    zygote: Zygote, postgresql_url: str, tmp_path: Path
) -> None:
    with Fleet(zygote, postgresql_url, 3, tmp_path) as fleet:
        kill_under_load(fleet, FEW, 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("n_servers", [1, 2])
def test_many_kills_on_sqlite(zygote: Zygote, sqlite_url: str, n_servers: int, tmp_path: Path) -> None:
    with Fleet(zygote, sqlite_url, n_servers, tmp_path) as fleet:
        kill_under_load(fleet, MANY, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_kills_on_postgresql(zygote: Zygote, postgresql_url: str, tmp_path: Path) -> None:
    with Fleet(zygote, postgresql_url, 3, tmp_path) as fleet:
        kill_under_load(fleet, MANY, 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_kills_of_workers(zygote: Zygote, sqlite_url: str, tmp_path: Path) -> None:
    with WorkerFleet(zygote, sqlite_url, 2, tmp_path) as fleet:
        kill_under_load(fleet, MANY, 5)


def test_a_seed_gives_one_plan() -> None:
    assert crashes.plan(7, 50, 3) == crashes.plan(7, 50, 3)
    assert crashes.plan(7, 50, 3) != crashes.plan(8, 50, 3)
