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
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import structlog

from tuner_server.base import descriptors
from tuner_server.base.address import Address, bound, reserved
from tuner_server.base.descriptors import ConnectionLimits
from tuner_server.core.errors import TunerError
from tuner_server.ops import logs
from tuner_server.ops.signals import stop_signals
from tuner_server.process.settings import ServerSettings
from tuner_server.process.worker_protocol import Assignment, Failed, Health, Started

BACK_OFF_S = (0.1, 10.0)
"""Seconds before a worker that died before it served is started again: at first, and at most; doubled each time."""
SILENT_S = 5.0
"""A worker that has said nothing for so long does not count as answering."""
HUNG_S = 30.0
"""A worker that has said nothing for so long is killed: it would go on taking its share of new connections."""
MARGIN_S = 5.0
"""What a worker gets beyond its grace to close its database and end."""

log = structlog.get_logger(__name__)


def supervise(settings: ServerSettings) -> None:
    """Serves with several processes, until SIGTERM or SIGINT, or the end of standard input if asked; then drains.

    Prints one line, `listening on HOST:PORT`, once all workers answer.

    Raises:
        InvalidInputError: an address can't be bound, or a file can't be used.
        TunerError: the workers can't start.
    """
    logs.configure(settings.log_format, settings.log_level)
    with ExitStack() as stack:
        listen = Address.parse(settings.listen)
        port = stack.enter_context(reserved("listen", listen)).getsockname()[1]
        if settings.http is not None:
            http = Address.parse(settings.http)
            http = http._replace(port=stack.enter_context(reserved("http", http)).getsockname()[1])
            settings = settings.model_copy(update={"http": str(http)})
        directory = None
        if settings.metrics is not None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lrpilot-metrics-")))
        asyncio.run(_Supervisor(settings, listen._replace(port=port), directory).run())


@dataclasses.dataclass(eq=False, slots=True)
class _Worker:
    """A worker as the supervisor sees it."""

    process: ForkServerProcess
    ended: asyncio.Future[None]
    heard_s: float
    """The time on the monotonic clock at which it last said something."""
    started: bool = False
    health: Health = dataclasses.field(default_factory=lambda: Health("not asked yet"))
    failed: Failed | None = None

    def answers(self, now_s: float) -> bool:
        return self.started and not self.ended.done() and now_s - self.heard_s < SILENT_S


class _Supervisor:
    """Starts workers, watches them and ends them, on one event loop."""

    def __init__(self, settings: ServerSettings, listen: Address, directory: Path | None) -> None:
        """Workers keep what they count in `directory`, if somebody wants to know."""
        self._settings, self._listen, self._directory = settings, listen, directory
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tuner_server.process.worker"])
        self._workers: dict[int, _Worker] = {}
        """The workers by their slots."""
        self._serving = False
        """Whether all have answered once: before that, a worker that can't start is the end."""
        self._failure: TunerError | None = None
        self._n_restarts = 0

    async def run(self) -> None:
        """See `supervise`."""
        self._stopping = stop_signals(exits_with_stdin=self._settings.exit_with_stdin)
        async with self._operators_port():
            watching = asyncio.create_task(self._end_hung_ones())
            async with asyncio.TaskGroup() as group:
                for slot in range(self._settings.workers):
                    group.create_task(self._keep(slot))
                await self._stopping.wait()
                log.info("draining", grace_s=self._settings.grace_s)
                await self._end_all()
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
            log.warning("worker ended", worker=slot, why=str(why))
            self._n_restarts += 1
            delay_s = BACK_OFF_S[0] if served else min(2 * delay_s, BACK_OFF_S[1])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run_one(self, slot: int) -> tuple[bool, TunerError]:
        """Runs a worker from its start to its end. Returns whether it served calls, and why it ended."""
        try:
            worker = self._workers[slot] = await self._start(slot)
        except (OSError, EOFError) as error:  # no memory for another process; or the fork server died just now
            return False, TunerError(f"no process can be started: {error}")
        await worker.ended
        worker.process.join()
        if self._directory is not None:
            from tuner_server.ops.metrics import forget_gauges

            forget_gauges(self._directory, slot)
        if worker.failed is not None:
            return False, worker.failed.error()
        process = worker.process
        return worker.started, TunerError(f"process {process.pid} ended with exit code {process.exitcode}")

    async def _start(self, slot: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        assignment = Assignment(self._settings, self._listen, slot, self._directory)
        process = self._context.Process(target=_work, args=(assignment, theirs), name=f"worker-{slot}", daemon=True)
        with theirs:
            # In a thread: the first time, the fork server has to import everything.
            await asyncio.to_thread(process.start)
        loop = asyncio.get_running_loop()
        worker = _Worker(process, loop.create_future(), time.monotonic())
        loop.add_reader(process.sentinel, self._ended, worker, ours)
        loop.add_reader(ours.fileno(), self._heard, worker, ours)
        if self._stopping.is_set():
            process.terminate()
        return worker

    def _heard(self, worker: _Worker, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(connection.fileno())
        else:
            self._take(worker, message)

    def _ended(self, worker: _Worker, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.process.sentinel)
        loop.remove_reader(connection.fileno())
        with contextlib.suppress(EOFError, OSError):
            while connection.poll():
                self._take(worker, connection.recv())  # its last words
        # If it was the fork server that died, the worker is still there: now it learns that it has to end.
        connection.close()
        worker.ended.set_result(None)

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

    def _announce(self) -> None:
        n_started = sum(worker.started for worker in self._workers.values())
        if self._serving or n_started < self._settings.workers:
            return
        self._serving = True
        print(f"listening on {self._listen}", flush=True)
        log.info("serving", host=self._listen.host, port=self._listen.port, workers=n_started)

    async def _end_hung_ones(self) -> None:
        while True:
            await asyncio.sleep(SILENT_S)
            for slot, worker in self._workers.items():
                silent_s = time.monotonic() - worker.heard_s
                if worker.started and not worker.ended.done() and silent_s > HUNG_S:
                    log.error("worker hangs", worker=slot, pid=worker.process.pid, silent_s=round(silent_s))
                    worker.process.kill()

    async def _end_all(self) -> None:
        """Has all workers drain; by force if they don't in time."""
        running = {worker.ended: worker for worker in self._workers.values() if not worker.ended.done()}
        for worker in running.values():
            worker.process.terminate()
        if running:
            await asyncio.wait(running, timeout=self._settings.grace_s + MARGIN_S)
        for ended, worker in running.items():
            if not ended.done():
                log.error("worker did not drain in time", pid=worker.process.pid)
                worker.process.kill()

    @contextlib.asynccontextmanager
    async def _operators_port(self) -> AsyncIterator[None]:
        if self._settings.metrics is None:
            yield
            return
        from prometheus_client import CollectorRegistry

        from tuner_server.ops.http import PortLimits, Readiness, operators_app, serving
        from tuner_server.ops.metrics import FleetMetrics, exposition

        def answering() -> list[_Worker]:
            now_s = time.monotonic()
            return [worker for worker in self._workers.values() if worker.answers(now_s)]

        def readiness() -> Readiness:
            workers = answering()
            problems = [worker.health.problem for worker in workers]
            usable = "" in problems
            database = "up" if usable else problems[0] if problems else "not known: no worker answers"
            state = f"{len(workers)} of {self._settings.workers}"
            if self._stopping.is_set():
                return Readiness(False, {"database": database, "workers": "stopping"})
            return Readiness(self._serving and usable, {"database": database, "workers": state})

        registry = CollectorRegistry()
        FleetMetrics(registry, workers=lambda: len(answering()), restarts=lambda: self._n_restarts)
        app = operators_app(readiness, lambda: exposition(registry, self._directory))
        limits = PortLimits("metrics", ConnectionLimits.of(descriptors.raised()).operators)
        async with serving(app, bound("metrics", Address.parse(self._settings.metrics)), limits):
            yield


def _work(assignment: Assignment, supervisor: Connection) -> None:
    """What a worker does, imported where it is done: PyTorch has no business in the supervisor."""
    from tuner_server.process.worker import work

    work(assignment, supervisor)
