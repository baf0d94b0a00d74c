"""One server process, from start to graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading

import structlog
import torch

from tuner_server.rpc.server import Server
from tuner_server.service import TunerService
from tuner_server.storage import Storage

STDIN = 0
log = structlog.get_logger(__name__)


async def serve(storage: Storage, listen: str, grace_s: float, *, exit_with_stdin: bool) -> None:
    """Serves until SIGTERM or SIGINT, or the end of standard input if asked; then drains for up to `grace_s`.

    Prints one line, `listening on HOST:PORT`, once the port answers.

    Raises:
        InvalidInputError: the address can't be bound.
    """
    # A search is a few milliseconds of small matrices: threads would cost more than they give, and one thread gives
    # the same bits every time.
    torch.set_num_threads(1)
    service = TunerService(storage)
    server = Server(service, listen)
    await server.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if exit_with_stdin:
        threading.Thread(target=_wait_for_end, args=(loop, stopping), daemon=True).start()
    host = listen.rpartition(":")[0]
    print(f"listening on {host}:{server.port}", flush=True)
    log.info("serving", host=host, port=server.port)
    await stopping.wait()
    log.info("draining", grace_s=grace_s)
    await server.stop(grace_s)
    service.close()
    log.info("stopped")


def _wait_for_end(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Sets `stopping` when whoever started us closes our input, or dies."""
    # Not through `sys.stdin`: its lock, held by a reading thread, is fatal when the interpreter ends.
    with contextlib.suppress(OSError):
        while os.read(STDIN, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stopping.set)
