"""A worker: one of several processes behind one port, started and watched by a supervisor.

The supervisor has it forked off a process that has imported this module, so that it starts in no time. Nothing here
may start threads, or gRPC, when it is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
from multiprocessing.connection import Connection

import structlog

from tuner_server.core.errors import TunerError
from tuner_server.ops import logs
from tuner_server.ops.metrics import ServerMetrics
from tuner_server.ops.shared_values import SharedValues, count_in
from tuner_server.ops.signals import on_hangup, stop_signals
from tuner_server.process.reloading import Reloading
from tuner_server.process.serve import run
from tuner_server.process.worker_protocol import Assignment, Failed, Health, Started


def work(supervisor: Connection, memory: int | None) -> None:
    """Serves until SIGTERM or SIGINT, or until the supervisor is gone; tells it how it goes.

    Args:
        supervisor: gives the assignment, and is told.
        memory: a descriptor of the memory in which this worker counts; None: nobody wants to know.
    """
    try:
        assignment: Assignment = supervisor.recv()
    except (EOFError, OSError):
        return  # it is gone
    with logs.on_standard_error(assignment.settings.log_format, assignment.settings.log_level):
        structlog.contextvars.bind_contextvars(worker=assignment.slot)
        try:
            asyncio.run(_work(assignment, supervisor, memory))
        except TunerError as error:
            supervisor.send(Failed.because(error))
            raise SystemExit(1) from None


async def _work(assignment: Assignment, supervisor: Connection, memory: int | None) -> None:
    metrics = None
    if memory is not None:
        count_in(SharedValues(memory))
        metrics = ServerMetrics(None)
    stopping = stop_signals(exits_with_stdin=False)
    reloading = Reloading(assignment.settings, assignment.source)
    on_hangup(lambda: reloading.reload(tell=False))
    # The supervisor writes nothing after the assignment: what can be read is its end.
    asyncio.get_running_loop().add_reader(supervisor.fileno(), stopping.set)

    def tell(message: Started | Health) -> None:
        with contextlib.suppress(OSError):  # it is gone, and the loop will learn in a moment
            supervisor.send(message)

    await run(
        assignment.settings,
        assignment.listen,
        metrics,
        stopping,
        shares_port=True,
        started=lambda _port: tell(Started()),
        checked=tell,
    )
