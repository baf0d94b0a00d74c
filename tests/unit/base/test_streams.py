"""Standard streams in every state in which a launcher may leave them, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from tuner_server.base import streams

SPEAK = """
from tuner_server.base import streams
streams.make_usable()
import os, sys
opened = os.open(os.devnull, os.O_RDONLY)
assert opened > streams.STDERR, opened
print("printed", file=sys.stdout, flush=True)
print("and an error", file=sys.stderr, flush=True)
streams.say(streams.STDOUT, b"said")
streams.complain("complained")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ""])
def test_a_stream_that_is_closed_takes_what_is_printed(closed: str) -> None:
    ran = subprocess.run(
        ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, SPEAK],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "printed\nsaid\n")
    assert ran.stderr == ("" if "2>&-" in closed else "and an error\ncomplained\n")


def test_a_latin_terminal_shows_question_marks() -> None:
    code = "from tuner_server.base import streams; streams.make_usable(); print('\\u2192 na\\xefve')"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"}, check=True
    )
    assert ran.stdout == b"? na\xefve\n"


def test_a_line_to_a_full_disk_is_lost() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    streams.say(full, b"no room")
    os.close(full)


def test_a_line_to_a_stopped_reader_is_lost_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SAY_S", 0.1)
    reader, writer = os.pipe()
    rest = streams.write(writer, b"x" * 2**20, time.monotonic() + 0.1)
    assert 0 < len(rest) < 2**20
    streams.say(writer, b"never read")
    os.close(reader)
    streams.say(writer, b"nor this")
    os.close(writer)


def test_a_slow_reader_gets_all() -> None:
    reader, writer = os.pipe()
    data, got = os.urandom(2**18), bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(reader, 2**16))

    thread = threading.Thread(target=read)
    thread.start()
    assert streams.write(writer, data, time.monotonic() + 60) == b""
    thread.join()
    assert got == data
    os.close(reader)
    os.close(writer)
