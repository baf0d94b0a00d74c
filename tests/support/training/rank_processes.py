"""Processes that are the ranks of a process group, and run what they are told, all of them at once."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from tests.support.training import torch_processes

START_TIMEOUT_S = 120.0
"""PyTorch is imported first."""
RUN_TIMEOUT_S = 60.0


class RankError(Exception):
    """A rank raised; the message is its traceback."""


class RankProcesses:
    """So many ranks on the CPU. They start once, for many runs: a start takes seconds."""

    def __init__(self, size: int, meeting_point: Path) -> None:
        """Starts them; they meet at a file that does not exist yet."""
        context = torch_processes.context()
        self._ends: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, size, meeting_point), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)
        self._answers(START_TIMEOUT_S)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What a module's function gives on each rank. Raises: RankError."""
        for end in self._ends:
            end.send((function, arguments))
        return self._answers(RUN_TIMEOUT_S)

    def _answers(self, timeout_s: float) -> list[Any]:
        answers = []
        for rank, end in enumerate(self._ends):
            if not end.poll(timeout_s):
                raise TimeoutError(f"rank {rank} has not answered for {timeout_s} s")
            answers.append(end.recv())
        for rank, (answer, error) in enumerate(answers):
            if error is not None:
                raise RankError(f"rank {rank}: {error}")
            answers[rank] = answer
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end, process in zip(self._ends, self._processes, strict=True):
            end.close()
            process.kill()
            process.join()
            process.close()


def _serve(end: Connection, rank: int, size: int, meeting_point: Path) -> None:
    """One rank's life."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting_point}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=RUN_TIMEOUT_S / 2),
    )
    end.send((None, None))
    while True:
        try:
            function, arguments = end.recv()
        except EOFError:
            return
        try:
            end.send((function(*arguments), None))
        except Exception:
            end.send((None, traceback.format_exc()))
