"""Groups of work: whatever gathered, in order, one of a key at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from tuner_server.service.batch_worker import BatchWorker

Item = tuple[str, int]


class Recorder:
    """Work that waits for permission, so that items gather meanwhile."""

    def __init__(self) -> None:
        self.groups: list[list[Item]] = []
        self.begun = threading.Semaphore(0)
        self.may = threading.Semaphore(0)

    def __call__(self, group: Sequence[Item]) -> None:
        self.begun.release()
        assert self.may.acquire(timeout=30)
        self.groups.append(list(group))


def key(item: Item) -> str:
    return item[0]


def lost(item: Item, error: BaseException) -> None:
    raise AssertionError(f"{item} was lost") from error


def worker(work: Recorder, *, max_group: int = 3, max_waiting: int = 100) -> BatchWorker[Item]:
    return BatchWorker("test", work, key, lost, max_group=max_group, max_waiting=max_waiting)


def blocked(work: Recorder, opened: BatchWorker[Item]) -> None:
    """Has the worker work on an item, so that the next ones wait."""
    assert opened.put(("first", 0))
    assert work.begun.acquire(timeout=30)


def finish(work: Recorder, opened: BatchWorker[Item]) -> list[list[Item]]:
    """Lets the work go on to its end; the groups after the first item."""
    work.may.release(100)
    opened.close()
    return work.groups[1:]


def test_what_gathers_while_it_works_is_one_group() -> None:
    work = Recorder()
    opened = worker(work)
    blocked(work, opened)
    items: list[Item] = [("a", 1), ("b", 1), ("c", 1), ("d", 1)]
    assert all(opened.put(item) for item in items)
    assert len(opened) == 4
    assert finish(work, opened) == [items[:3], items[3:]]


def test_items_of_one_key_come_one_after_the_other_and_hold_up_no_others() -> None:
    work = Recorder()
    opened = worker(work)
    blocked(work, opened)
    for item in [("a", 1), ("a", 2), ("b", 1), ("a", 3), ("c", 1), ("d", 1)]:
        assert opened.put(item)
    assert finish(work, opened) == [[("a", 1), ("b", 1), ("c", 1)], [("a", 2), ("d", 1)], [("a", 3)]]


def test_more_than_may_wait_is_refused_and_so_is_what_comes_after_the_end() -> None:
    work = Recorder()
    opened = worker(work, max_waiting=2)
    blocked(work, opened)
    assert [opened.put(("a", i)) for i in range(3)] == [True, True, False]
    assert finish(work, opened) == [[("a", 0)], [("a", 1)]]
    assert not opened.put(("a", 9))


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit("a bug"), KeyboardInterrupt("a bug")], ids=repr)
def test_work_that_raises_does_not_end_the_worker(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    done = threading.Event()
    told: list[tuple[Item, BaseException]] = []

    def work(group: Sequence[Item]) -> None:
        if group[0][0] == "bad":
            raise error
        done.set()

    def tell(item: Item, why: BaseException) -> None:
        told.append((item, why))
        raise RuntimeError("and who is told raises, too")

    opened = BatchWorker("test", work, key, tell, max_group=1, max_waiting=10)
    opened.put(("bad", 0))
    opened.put(("good", 0))
    assert done.wait(30)
    assert opened.alive
    opened.close()
    assert not opened.alive
    assert told == [(("bad", 0), error)]
    assert "a bug" in capsys.readouterr().out
