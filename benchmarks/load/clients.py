"""Client processes: each runs a fleet, window by window, as it is told over a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from benchmarks.load.fleet import Fleet, Window
from benchmarks.load.tally import Tally, together
from benchmarks.load.workload import Plan, load_curves

STOP_TIMEOUT_S = 10.0


def _work(pipe: Connection, target: str, plans: Sequence[Plan]) -> None:
    asyncio.run(_serve(pipe, target, plans))


async def _serve(pipe: Connection, target: str, plans: Sequence[Plan]) -> None:
    async with Fleet(target, plans, load_curves()) as fleet:
        # Nothing else happens on this loop between two windows.
        while (window := pipe.recv()) is not None:
            pipe.send(await fleet.run(window))


class Clients:
    """Client processes that run the same windows at the same time."""

    def __init__(self, target: str, plans: Sequence[Plan], n_processes: int) -> None:
        """Shares the jobs out among the processes, at most one process a job."""
        # Spawned: gRPC doesn't survive a fork.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for i in range(min(n_processes, len(plans))):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, target, plans[i::n_processes]), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, window: Window) -> Tally:
        """What all of them saw. Raises: EOFError: a process has died; its error is on standard error."""
        for pipe in self._pipes:
            pipe.send(window)
        return together([pipe.recv() for pipe in self._pipes])

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join(STOP_TIMEOUT_S)
            process.kill()
            process.join()
            pipe.close()


@contextlib.contextmanager
def clients(target: str, plans: Sequence[Plan], n_processes: int) -> Iterator[Clients]:
    """Client processes that end with the block."""
    with contextlib.closing(Clients(target, plans, n_processes)) as running:
        yield running
