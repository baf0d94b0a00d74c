"""Calls are made in a thread of their own, so that an interrupt finds nobody in the middle of one.

Python raises a signal's exception in the main thread, wherever that is: also in `Condition.__enter__`, after the lock
was taken and before the block that gives it back. gRPC guards its calls by such conditions. One interrupt there, and
nothing on that channel ever answers again. So whoever may be interrupted only waits, for a plain lock: that has no such
gap.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

UNSEEN_S = 1.0
"""An interrupt that comes just before the wait begins is seen so much later at most."""

Answer = TypeVar("Answer")


class CallThread:
    """A thread that makes one call after another. It is started by the first, and ends with this object."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._process = 0
        self._tasks: queue.SimpleQueue[_Task[Any] | None] | None = None

    def run(self, call: Callable[[], Answer]) -> Answer:
        """Makes a call, and waits for it. Raises: whatever the call raises.

        Whoever is interrupted while he waits leaves the call, which ends by itself, and its thread behind: the next
        call has another.
        """
        task = _Task(call)
        try:
            self._running().put(task)
            while not task.over.acquire(timeout=UNSEEN_S):
                pass
        except BaseException:
            self.close()
            raise
        return task.answer()

    def close(self) -> None:
        """Lets the thread end after the calls that it has. The next call starts another."""
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.put(None)

    def _running(self) -> queue.SimpleQueue[_Task[Any] | None]:
        """The tasks of a thread that runs, in this process: one that was forked has its parent's memory alone."""
        if self._tasks is None or self._process != os.getpid():
            tasks: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
            threading.Thread(target=_work, args=(tasks,), name="lrpilot-calls", daemon=True).start()
            weakref.finalize(self, tasks.put, None)
            self._process, self._tasks = os.getpid(), tasks
        return self._tasks


class _Task(Generic[Answer]):
    """A call, and what came of it once `over` can be acquired."""

    def __init__(self, call: Callable[[], Answer]) -> None:
        self._call: Callable[[], Answer] | None = call
        self._context = contextvars.copy_context()
        self._answers: list[Answer] = []
        self._error: BaseException | None = None
        self.over = threading.Lock()
        self.over.acquire()

    def make(self) -> None:
        """Makes the call."""
        assert self._call is not None
        try:
            self._answers.append(self._context.run(self._call))
        except BaseException as error:
            self._error = error
        self._call = None
        self.over.release()

    def answer(self) -> Answer:
        """What the call has returned. Raises: whatever it has raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._answers.pop()


def _work(tasks: queue.SimpleQueue[_Task[Any] | None]) -> None:
    while (task := tasks.get()) is not None:
        task.make()
        del task
