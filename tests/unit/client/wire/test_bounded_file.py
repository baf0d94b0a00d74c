"""Files that users name are read to their end, or refused in time, whatever they are."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lrpilot.wire.bounded_file import read_whole

MOST = 200_000


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


class Writer:
    """Whoever writes to a pipe, piece by piece, until its reader leaves."""

    def __init__(self, pipe: Path, pieces: Iterator[bytes]) -> None:
        self._thread = threading.Thread(target=self._write, args=(pipe, pieces))
        self._thread.start()

    def _write(self, pipe: Path, pieces: Iterator[bytes]) -> None:
        with pipe.open("wb", buffering=0) as opened:
            try:
                for piece in pieces:
                    opened.write(piece)
            except BrokenPipeError:
                pass

    def join(self) -> None:
        self._thread.join()


def without_end(pause_s: float) -> Iterator[bytes]:
    while True:
        yield b"a" * 1000
        time.sleep(pause_s)


def test_a_file_is_read_up_to_its_most(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 1, MOST):
        path.write_bytes(b"a" * size)
        assert read_whole(path, MOST) == b"a" * size
    path.write_bytes(b"a" * (MOST + 1))
    with pytest.raises(OSError, match=f"more than {MOST} bytes"):
        read_whole(path, MOST)


def test_a_huge_file_is_not_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(OSError, match="more than") as caught:
        read_whole(path, 2**30)
    assert caught.value.errno == errno.EFBIG


def test_a_pipe_is_read_to_its_end(pipe: Path) -> None:
    writer = Writer(pipe, iter([b"a" * 70_000, b"b" * 70_000]))
    assert read_whole(pipe, MOST) == b"a" * 70_000 + b"b" * 70_000
    writer.join()


def test_a_pipe_without_end_is_cut(pipe: Path) -> None:
    writer = Writer(pipe, without_end(0.0))
    with pytest.raises(OSError, match="more than"):
        read_whole(pipe, MOST)
    writer.join()


def test_a_pipe_that_goes_on_slowly_is_not_waited_for(pipe: Path) -> None:
    writer = Writer(pipe, without_end(0.01))
    with pytest.raises(OSError, match="did not end"):
        read_whole(pipe, MOST, 0.1)
    writer.join()


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(pipe: Path) -> None:
    with pytest.raises(OSError, match="did not end") as caught:
        read_whole(pipe, MOST, 0.1)
    assert caught.value.errno == errno.ETIMEDOUT


def test_what_can_not_be_read_is_told_as_ever(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "none", MOST)
    with pytest.raises(IsADirectoryError):
        read_whole(tmp_path, MOST)
