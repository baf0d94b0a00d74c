from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tuner_server.ops import log_writer
from tuner_server.ops.log_writer import LogStream, LogWriter

PIPE_BYTES = 4096


def lost(count: int) -> str:
    """The line about lines that were dropped."""
    return f"{count} lost\n"


def nothing() -> None:
    """There is nothing to tell now and then."""


@pytest.fixture
def small_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes little."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read_lines(reader: int, last: str) -> list[str]:
    """Reads lines up to a given one."""
    text = ""
    while not text.endswith(f"{last}\n"):
        text += os.read(reader, 2**16).decode()
    return text.splitlines()


def test_lines_come_in_their_order_from_all_threads(small_pipe: tuple[int, int]) -> None:
    reader, number = small_pipe
    writer = LogWriter(number, lost, nothing)

    def tell(name: str) -> None:
        for i in range(500):
            writer.write(f"{name} {i}\n")

    threads = [threading.Thread(target=tell, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    found: list[str] = []
    while len(found) < 1000:
        found += os.read(reader, 2**16).decode().splitlines()  # whole lines: they are written as such
    for thread in threads:
        thread.join()
    writer.close()
    for name in "ab":
        assert [line for line in found if line.startswith(name)] == [f"{name} {i}" for i in range(500)]


def test_a_reader_that_stops_costs_lines_and_is_told_how_many(
    small_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "MAX_WAITING", 20_000)
    reader, number = small_pipe
    writer = LogWriter(number, lost, nothing)
    line = "x" * 99 + "\n"
    for _ in range(1000):
        writer.write(line)  # at once: the test would not end otherwise
    kept: list[str] = []
    while writer._waiting:  # for the reader, who is back
        if select.select([reader], [], [], 0.01)[0]:
            kept += os.read(reader, 2**16).decode().splitlines()
    writer.write("here again\n")
    kept += read_lines(reader, "here again")
    writer.close()
    told = [line for line in kept if line.endswith("lost")]
    assert len(told) == 1
    assert len(kept) - 2 + int(told[0].split()[0]) == 1000
    assert kept[-2:] == [told[0], "here again"]


def test_the_end_waits_for_a_stopped_reader_no_longer_than_it_should(
    small_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "CLOSE_S", 0.2)
    _, number = small_pipe
    writer = LogWriter(number, lost, nothing)
    for _ in range(100):
        writer.write("x" * 999 + "\n")
    writer.close()
    assert not writer._thread.is_alive()


def test_what_waits_at_the_end_is_written(small_pipe: tuple[int, int]) -> None:
    reader, number = small_pipe
    writer = LogWriter(number, lost, nothing)
    writer.write("the last words\n")
    writer.close()
    assert os.read(reader, 100) == b"the last words\n"


def test_a_full_disk_costs_lines_alone_and_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(full, lost, nothing)
    for _ in range(3):
        writer.write("no room\n")
        wait_until(lambda: not writer._waiting)
    assert writer._dropped == 3
    reader, room = os.pipe()
    os.dup2(room, full)  # it was made room
    writer.write("room again\n")
    assert read_lines(reader, "room again") == ["3 lost", "room again"]
    writer.close()
    for descriptor in (reader, room, full):
        os.close(descriptor)


def test_what_is_to_be_told_now_and_then_is_told_when_nothing_else_is(
    small_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "IDLE_S", 0.05)
    reader, number = small_pipe
    writer = LogWriter(number, lost, lambda: writer.write("now and then\n"))
    assert read_lines(reader, "now and then")
    writer.close()


def test_a_stream_hands_on_whole_lines(small_pipe: tuple[int, int]) -> None:
    reader, number = small_pipe
    writer = LogWriter(number, lost, nothing)
    stream = LogStream(writer)
    print("one\ntwo", end="", file=stream, flush=True)
    time.sleep(0.05)
    assert os.read(reader, 100) == b"one\n"
    print(" and three", file=stream)
    writer.close()
    assert os.read(reader, 100) == b"two and three\n"
