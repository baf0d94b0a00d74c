"""Keeps several processes alive behind one port. The supervisor itself serves no calls.

    supervisor ──▶ fork server (has imported all that a worker needs)
        ▲               ├──▶ worker 0 ─┐
        └─── pipes ─────├──▶ worker 1 ─┼─ all listen on the same port (SO_REUSEPORT)
                        └──▶ ...      ─┘

The supervisor holds the port without listening, so that no other server takes it. Each worker has a pipe to it; a
worker that finds its pipe closed has lost its supervisor, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING

import structlog

from tuner_server.base import descriptors
from tuner_server.base.address import Address, bound, reserved
from tuner_server.base.descriptors import ConnectionLimits
from tuner_server.base.streams import STDOUT, say
from tuner_server.core.errors import TunerError
from tuner_server.ops import logs
from tuner_server.ops.signals import stop_signals
from tuner_server.process.forkserver import ForkServer, exit_code
from tuner_server.process.reloading import SettingsSource
from tuner_server.process.settings import ServerSettings
from tuner_server.process.upkeep import Upkeep
from tuner_server.process.worker_protocol import Assignment, Failed, Health, Started

if TYPE_CHECKING:
    from tuner_server.ops.http import Readiness

BACK_OFF_S = (0.1, 10.0)
"""Seconds before a worker that died before it served is started again: at first, and at most; doubled each time."""
SILENT_S = 5.0
"""A worker that has said nothing for so long does not count as answering."""
HUNG_S = 30.0
"""A worker that has said nothing for so long is killed: it would go on taking its share of new connections."""
LOST_S = 60.0
"""When no worker has answered for so long, in spite of all new ones, the server itself has to be started anew."""
MARGIN_S = 5.0
"""What a worker gets beyond its grace to close its database and end."""

log = structlog.get_logger(__name__)


def supervise(source: SettingsSource) -> None:
    """Serves with several processes, until SIGTERM or SIGINT, or the end of standard input if asked; then drains.

    Prints one line, `listening on HOST:PORT`, once all workers answer.

    Raises:
        InvalidInputError: an address can't be bound, or a file can't be used.
        TunerError: the workers can't start.
    """
    settings = source.first
    with logs.on_standard_error(settings.log_format, settings.log_level), ExitStack() as stack:
        listen = Address.parse(settings.listen)
        port = stack.enter_context(reserved("listen", listen)).getsockname()[1]
        if settings.http is not None:
            http = Address.parse(settings.http)
            http = http._replace(port=stack.enter_context(reserved("http", http)).getsockname()[1])
            settings = settings.model_copy(update={"http": str(http)})
        fork_server = stack.enter_context(contextlib.closing(ForkServer()))
        asyncio.run(_Supervisor(settings, source, listen._replace(port=port), fork_server).run())


@dataclasses.dataclass(eq=False, slots=True)
class _Worker:
    """A worker as the supervisor sees it."""

    process_id: int
    ended: asyncio.Future[int | None]
    """Has its exit code; None: whatever forked it died, and nobody will ever know."""
    heard_s: float
    """The time on the monotonic clock at which it last said something."""
    started: bool = False
    health: Health = dataclasses.field(default_factory=lambda: Health("not asked yet"))
    failed: Failed | None = None

    def answers(self, now_s: float) -> bool:
        return self.started and not self.ended.done() and now_s - self.heard_s < SILENT_S

    def signal(self, number: signal.Signals) -> None:
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process_id, number)


class _Supervisor:
    """Starts workers, watches them and ends them, on one event loop."""

    def __init__(
        self, settings: ServerSettings, source: SettingsSource, listen: Address, fork_server: ForkServer
    ) -> None:
        self._settings, self._source, self._listen, self._fork_server = settings, source, listen, fork_server
        self._upkeep = Upkeep(settings, source, alive=lambda: not self._liveness(), reloaded=self._reloaded)
        self._memories: list[int] = []
        """Descriptors of the memory in which workers count, by their slots, if somebody wants to know."""
        self._workers: dict[int, _Worker] = {}
        """The workers by their slots."""
        self._serving = False
        """Whether all have answered once: before that, a worker that can't start is the end."""
        self._failure: TunerError | None = None
        self._n_restarts = 0
        self._answered_s = math.inf
        """The time on the monotonic clock at which a worker last answered, or had a reason that is not ours."""
        self._last_end = "none has ended"

    async def run(self) -> None:
        """See `supervise`."""
        self._stopping = stop_signals(exits_with_stdin=self._settings.exit_with_stdin)
        async with self._upkeep.running(self._stopping), self._operators_port():
            watching = asyncio.create_task(self._end_hung_ones())
            async with asyncio.TaskGroup() as group:
                for slot in range(self._settings.workers):
                    group.create_task(self._keep(slot))
                await self._stopping.wait()
                log.info("draining", grace_s=self._settings.grace_s)
                await self._end_all()
                self._fork_server.give_up()
            watching.cancel()
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    async def _keep(self, slot: int) -> None:
        """Has one worker after the other run in a slot, until the server stops."""
        delay_s = BACK_OFF_S[0]
        while not self._stopping.is_set():
            served, why = await self._run_one(slot)
            if self._stopping.is_set():
                return
            if not self._serving:
                self._failure = self._failure or why
                self._stopping.set()
                return
            self._last_end = str(why)
            log.warning("worker ended", worker=slot, why=str(why))
            self._n_restarts += 1
            delay_s = BACK_OFF_S[0] if served else min(2 * delay_s, BACK_OFF_S[1])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run_one(self, slot: int) -> tuple[bool, TunerError]:
        """Runs a worker from its start to its end. Returns whether it served calls, and why it ended."""
        try:
            worker = self._workers[slot] = await self._start(slot)
        except OSError as error:  # no memory for another process; or the fork server died just now
            return False, TunerError(f"no process can be started: {error}")
        code = await worker.ended
        if worker.failed is not None:
            if worker.failed.database:
                self._answered_s = time.monotonic()
            return False, worker.failed.error()
        how = "lost the process that had forked it" if code is None else f"ended with exit code {code}"
        return worker.started, TunerError(f"process {worker.process_id} {how}")

    async def _start(self, slot: int) -> _Worker:
        ours, theirs = Pipe()
        status, their_status = os.pipe()
        try:
            descriptors = [theirs.fileno(), their_status, *self._memories[slot : slot + 1]]
            # In a thread: the first time, the fork server has to import everything.
            process_id = await asyncio.to_thread(self._fork_server.fork, descriptors)
            ours.send(Assignment(self._settings, self._source, self._listen, slot))
        except OSError:
            ours.close()
            os.close(status)
            raise
        finally:
            theirs.close()
            os.close(their_status)
        loop = asyncio.get_running_loop()
        worker = _Worker(process_id, loop.create_future(), time.monotonic())
        loop.add_reader(status, self._ended, worker, ours, status)
        loop.add_reader(ours.fileno(), self._heard, worker, ours)
        if self._stopping.is_set():
            worker.signal(signal.SIGTERM)
        return worker

    def _heard(self, worker: _Worker, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(connection.fileno())
        else:
            self._take(worker, message)

    def _ended(self, worker: _Worker, connection: Connection, status: int) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(status)
        loop.remove_reader(connection.fileno())
        code = exit_code(status)
        os.close(status)
        with contextlib.suppress(EOFError, OSError):
            while connection.poll():
                self._take(worker, connection.recv())  # its last words
        # If it was the fork server that died, the worker is still there: now it learns that it has to end.
        connection.close()
        worker.ended.set_result(code)

    def _take(self, worker: _Worker, message: object) -> None:
        worker.heard_s = time.monotonic()
        match message:
            case Started():
                worker.started = True
                self._announce()
            case Health():
                worker.health = message
            case Failed():
                worker.failed = message
        if worker.started and not worker.health.lasting:
            self._answered_s = worker.heard_s

    def _announce(self) -> None:
        n_started = sum(worker.started for worker in self._workers.values())
        if self._serving or n_started < self._settings.workers:
            return
        self._serving = True
        say(STDOUT, f"listening on {self._listen}".encode())
        self._upkeep.ready(str(self._listen))
        log.info("serving", host=self._listen.host, port=self._listen.port, workers=n_started)

    async def _end_hung_ones(self) -> None:
        while True:
            await asyncio.sleep(SILENT_S)
            for slot, worker in self._workers.items():
                silent_s = time.monotonic() - worker.heard_s
                if worker.started and not worker.ended.done() and silent_s > HUNG_S:
                    log.error("worker hangs", worker=slot, pid=worker.process_id, silent_s=round(silent_s))
                    worker.signal(signal.SIGKILL)

    async def _end_all(self) -> None:
        """Has all workers drain; by force if they don't in time."""
        running = {worker.ended: worker for worker in self._workers.values() if not worker.ended.done()}
        for worker in running.values():
            worker.signal(signal.SIGTERM)
        if running:
            await asyncio.wait(running, timeout=self._settings.grace_s + MARGIN_S)
        for ended, worker in running.items():
            if not ended.done():
                log.error("worker did not drain in time", pid=worker.process_id)
                worker.signal(signal.SIGKILL)

    def _answering(self) -> list[_Worker]:
        """The workers that answer now."""
        now_s = time.monotonic()
        return [worker for worker in self._workers.values() if worker.answers(now_s)]

    def _liveness(self) -> str:
        """Why this server has to be started anew; empty: it need not be."""
        lost_s = time.monotonic() - self._answered_s
        if self._stopping.is_set() or lost_s < LOST_S:
            return ""
        return f"no worker has answered for {lost_s:.0f} s; why the last one ended: {self._last_end}"

    def _reloaded(self, settings: ServerSettings) -> None:
        """Has the workers, too, read their settings again; those to come begin with them."""
        self._settings = settings
        for worker in self._workers.values():
            worker.signal(signal.SIGHUP)

    def _readiness(self) -> Readiness:
        """Whether calls should be sent here."""
        from tuner_server.ops.http import Readiness

        workers = self._answering()
        problems = [worker.health.problem for worker in workers]
        usable = "" in problems
        database = "up" if usable else problems[0] if problems else "not known: no worker answers"
        state = f"{len(workers)} of {self._settings.workers}"
        if self._stopping.is_set():
            return Readiness(False, {"database": database, "workers": "stopping"})
        return Readiness(self._serving and usable, {"database": database, "workers": state})

    @contextlib.asynccontextmanager
    async def _operators_port(self) -> AsyncIterator[None]:
        if self._settings.metrics is None:
            yield
            return
        from prometheus_client import CollectorRegistry

        from tuner_server.ops.http import PortLimits, operators_app, serving
        from tuner_server.ops.metrics import FleetMetrics, exposition
        from tuner_server.ops.shared_values import SharedValues, SumOverProcesses, new_memory

        def runs(slot: int) -> bool:
            return slot in self._workers and not self._workers[slot].ended.done()

        self._memories = [new_memory() for _ in range(self._settings.workers)]
        registry = CollectorRegistry()
        FleetMetrics(registry, workers=lambda: len(self._answering()), restarts=lambda: self._n_restarts)
        self._upkeep.show_in(registry)
        registry.register(SumOverProcesses([SharedValues(memory) for memory in self._memories], runs))
        app = operators_app(self._liveness, self._readiness, lambda: exposition(registry))
        limits = PortLimits("metrics", ConnectionLimits.of(descriptors.raised()).operators)
        async with serving(app, bound("metrics", Address.parse(self._settings.metrics)), limits):
            yield
