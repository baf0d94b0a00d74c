"""One whole history from a seed: which faults it has, who takes part, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import sqlite3
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import lrpilot.session.outbox
import lrpilot.session.session
import lrpilot.transport.grpc_transport
import structlog
from lrpilot.wire.messages.schedule_parts import merged

import tuner_server.service.tuner_service
import tuner_server.storage.database
from tests.simulation import checker
from tests.simulation.clients import Counts, FreeClient, Habits, SessionClient
from tests.simulation.disk import DiskFaults, disk
from tests.simulation.history import History, Kept
from tests.simulation.network import Network, NetworkFaults
from tests.simulation.server import SimulatedServer
from tests.simulation.world import LivelockError, Task, World
from tests.support.jobs.simulated_training import QUICK, config
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.rpc import schedule_messages
from tuner_server.storage import Database, StoredHistory
from tuner_server.storage.sql import SqlStorage

CLOCKS = (lrpilot.session.session, lrpilot.transport.grpc_transport, tuner_server.storage.database)
"""Modules that read the time, or let it pass."""
NAMERS = (lrpilot.session.outbox, tuner_server.service.tuner_service)
"""Modules that draw names."""
TROUBLE_S = 60.0
"""How long there are kills and partitions; then all is well, so that every client comes to its end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a history is to have."""

    n_servers: int
    n_clients: int
    network: NetworkFaults
    disk: DiskFaults
    habits: Habits
    kills_every_s: float | None
    cuts_every_s: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Episode:
    """What came of a history."""

    seed: int
    violations: list[str]
    """Promises that were broken; none: all were kept."""
    trace: str
    """The digest of all that happened."""
    faults: Counter[str]
    n_calls: int
    n_told: int
    """Calls whose clients were told what came of them."""
    time_s: float
    """Simulated seconds."""
    counts: Counts
    lines: list[str] | None = None
    """What happened, in words."""


def run(seed: int, *, words: bool = False) -> Episode:
    """Runs the history of a seed; with `words`, in words too."""
    world = World(seed)
    world.lines = [] if words else None
    plan = drawn(world.chance)
    world.note("plan", plan)
    history, counts = History(), Counts()
    with disk() as file, simulated(world):
        try:
            _play(world, plan, history, counts, file)
            broken = checker.violations(history, kept(file))
        except LivelockError as error:
            broken = [f"every history comes to its end: {error}"]
        except Exception as error:
            broken = [f"no server and no client fails by itself: {traceback.format_exc(limit=-3)}{error!r}"]
    return Episode(
        seed=seed,
        violations=broken,
        trace=world.trace,
        faults=world.faults,
        n_calls=len(history.calls),
        n_told=sum(call.told for call in history.calls),
        time_s=world.time_s,
        counts=counts,
        lines=world.lines,
    )


@contextlib.contextmanager
def simulated(world: World) -> Iterator[None]:
    """Gives code under test the clock and the names of the world, and lets nobody write a log."""

    class Time:
        monotonic, sleep = staticmethod(world.monotonic), staticmethod(world.sleep)

    class Uuid:
        uuid4 = staticmethod(world.uuid4)

    with contextlib.ExitStack() as stack:
        for module in CLOCKS:
            stack.enter_context(mock.patch.object(module, "time", Time))
        for module in NAMERS:
            stack.enter_context(mock.patch.object(module, "uuid", Uuid))
        before, configured = logging.root.manager.disable, structlog.get_config()
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, before)
        structlog.configure(processors=[_drop])
        stack.callback(structlog.configure, **configured)
        yield


def _drop(*_: object) -> str:
    raise structlog.DropEvent


def drawn(chance: random.Random) -> Plan:
    """What a history has: of each kind of fault nothing, a little or much, so that none hides another."""

    def rate(*rates: float) -> float:
        return chance.choice((0.0, 0.0, *rates))

    return Plan(
        n_servers=chance.choice((1, 2, 2)),
        n_clients=chance.choice((1, 2, 3, 4)),
        network=NetworkFaults(lost=rate(0.02, 0.15), late=rate(0.02, 0.1), repeated=rate(0.05, 0.3)),
        disk=DiskFaults(
            read_error=rate(0.02, 0.1),
            error_before_commit=rate(0.03, 0.15),
            error_after_commit=rate(0.03, 0.15),
            slow_error=rate(0.02),
            kill_before_commit=rate(0.02, 0.05),
            kill_after_commit=rate(0.02, 0.1),
        ),
        habits=Habits(
            repeats=rate(0.1, 0.4),
            contradicts=rate(0.1, 0.3),
            goes_back=rate(0.05, 0.2),
            lives_on=rate(0.05, 0.1),
            asks=rate(0.05, 0.2),
            cancels=rate(0.01, 0.03),
            leaves=rate(0.05),
            looks=rate(0.1, 0.5),
            changes_itself=rate(0.05, 0.2),
        ),
        kills_every_s=chance.choice((None, 0.5, 3.0)),
        cuts_every_s=chance.choice((None, None, 2.0)),
    )


def drawn_config(chance: random.Random) -> JobConfig:
    """A short job, one of a few, so that the reference is quick."""
    bounds = LrBounds(min=1e-3, max=1.0)
    budget = {"probe_steps": 5, "refinements": 1, "max_candidates": 3}
    one = chance.choice(
        (
            config(200, **QUICK),
            config(160, has_validation=True, **QUICK),
            config(300, bounds=False, **QUICK),
            JobConfig(policy="budget", policy_options=budget, total_steps=120, lr_bounds=bounds, base_lr=0.1),
            JobConfig(policy="budget", total_steps=400, lr_bounds=bounds, base_lr=0.1, has_validation=True),
            JobConfig(policy="open_ended", base_lr=0.1, lr_bounds=bounds),
        )
    )
    family = chance.choice(("", "", "", "kin"))
    return one.model_copy(update={"seed": chance.randrange(3), "family": family})


def _play(world: World, plan: Plan, history: History, counts: Counts, file: Path) -> None:
    servers = [SimulatedServer(f"server {i}", world, file, plan.disk) for i in range(plan.n_servers)]
    for server in servers:
        server.start()
    network = Network(world, history, servers, plan.network)
    tasks: list[Task] = []
    for i in range(plan.n_clients):
        one = drawn_config(world.chance)
        free = one.total_steps is None or world.chance.random() < 0.6
        client = (FreeClient if free else SessionClient)(network, f"client {i}", counts, plan.habits, one)
        client.spawned = tasks
        tasks.append(world.spawn(client.run, world.chance.uniform(0, 0.5)))
    _trouble(world, plan, network, servers)
    world.run(lambda: all(task.ended for task in tasks))
    for server in servers:
        server.die()
    settled = world.spawn(lambda: world.sleep(1.0))
    world.run(lambda: settled.ended)


def _trouble(world: World, plan: Plan, network: Network, servers: list[SimulatedServer]) -> None:
    """Has servers killed, stopped and started again, and wires cut."""
    chance = world.chance

    def every(seconds: float, act: Callable[[], None]) -> None:
        def again() -> None:
            if world.time_s < TROUBLE_S:
                act()
                world.at(chance.expovariate(1 / seconds), again)

        world.at(chance.expovariate(1 / seconds), again)

    def end_one() -> None:
        server = chance.choice(servers)
        if server.alive and chance.random() < 0.7:
            world.fault("kill", server.name)
            server.die()
        elif server.alive:
            world.fault("stop", server.name)
            server.spawn(server.stop)

    def cut_one() -> None:
        client = f"client {chance.randrange(plan.n_clients)}"
        network.cut(client, chance.choice(servers).name, chance.uniform(0.5, 10.0))

    def revive() -> None:
        for server in servers:
            if not server.alive:
                server.start()
        world.at(chance.uniform(0.05, 1.5), revive)

    if plan.kills_every_s is not None:
        every(plan.kills_every_s, end_one)
    if plan.cuts_every_s is not None:
        every(plan.cuts_every_s, cut_one)
    revive()


def kept(file: Path) -> list[Kept]:
    """What is in the database."""
    with SqlStorage(Database(f"sqlite:///{file}")) as storage, contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the file is whole"
        found = []
        for job_id, request_id in connection.execute("SELECT id, request_id FROM jobs ORDER BY id").fetchall():
            stored = storage.load(job_id)
            history = StoredHistory(storage, job_id, stored.state.directive.number, lambda: None)
            rows = connection.execute(
                "SELECT fingerprint FROM entries WHERE job_id = ? ORDER BY number", (job_id,)
            ).fetchall()
            schedule = merged(schedule_messages.schedule_to_pb(stored, history, full=True))
            found.append(Kept(request_id, stored.state.prior, schedule, tuple(row[0] for row in rows)))
        return found
