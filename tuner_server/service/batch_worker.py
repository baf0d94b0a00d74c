"""A thread that works on whatever has gathered since it last looked."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from tuner_server.base.failures import FAILURES

T = TypeVar("T")


class BatchWorker(Generic[T]):
    """Takes items from any thread, and hands them to `work` in groups, in a thread of its own, until `close`.

    Items with the same key never share a group: the later one is handed over after the earlier one was worked on. What
    has to do with the thread is in `_start`, `close` and `alive`: whoever steps a worker by himself replaces these.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[T]], None],
        key: Callable[[T], Hashable],
        lost: Callable[[T, BaseException], None],
        *,
        max_group: int,
        max_waiting: int,
    ) -> None:
        """Starts the thread. What `work` raises is logged, and `lost` is told of each item of the group."""
        self._work, self._key, self._lost = work, key, lost
        self._max_group, self._max_waiting = max_group, max_waiting
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._name = name
        self._start()

    def _start(self) -> None:
        """Has the thread work on what comes."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Queues an item; False if too many wait, or the worker is closed."""
        with self._changed:
            if self._closed or len(self._items) >= self._max_waiting:
                return False
            self._items.append(item)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Works on what is waiting, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def __len__(self) -> int:
        return len(self._items)

    def _run(self) -> None:
        while self._something_waits():
            self.work_on_next()

    def work_on_next(self) -> None:
        """Works on the group that has gathered, if there is one."""
        group = self._gathered()
        try:
            if group:
                self._work(group)
        except BaseException as error:  # nothing ends the thread, on which the items of everybody wait
            self._give_up(group, error)

    def _give_up(self, group: Sequence[T], error: BaseException) -> None:
        """Tells of the items of a group that could not be worked on."""
        with contextlib.suppress(Exception):
            FAILURES.unforeseen(error)
        for item in group:
            with contextlib.suppress(Exception):
                self._lost(item, error)

    def _something_waits(self) -> bool:
        """Waits for an item; False when the worker is closed and done."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            return bool(self._items)

    def _gathered(self) -> list[T]:
        """The next group; empty if nothing waits."""
        with self._changed:
            group: dict[Hashable, T] = {}
            later: list[T] = []
            while self._items and len(group) < self._max_group:
                item = self._items.popleft()
                if self._key(item) in group:
                    later.append(item)
                else:
                    group[self._key(item)] = item
            self._items.extendleft(reversed(later))
            return list(group.values())
