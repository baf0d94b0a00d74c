"""The channel between ranks, as its process ends, and processes that have none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lrpilot.distributed.ranks import say_if_alone

PROGRAM = """
import atexit
import sys

import torch.distributed as dist

known = dist.distributed_c10d._world.pg_names
atexit.register(lambda: print(len(known)))  # called last, as the first to be registered

from lrpilot.distributed.ranks import Ranks

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
group = dist.group.WORLD if sys.argv[2] == "whole" else dist.new_group([0])
n_own = len(known)
ranks = Ranks(group, 1.0)
assert len(known) == n_own + 1
if sys.argv[3] == "closed":
    ranks.close()
if sys.argv[4] == "destroyed":
    dist.destroy_process_group()
print(n_own)
"""


@pytest.mark.parametrize(
    ("group", "state", "world", "left"),
    [
        ("whole", "open", "kept", 1),
        ("whole", "closed", "kept", 1),
        ("part", "open", "kept", 2),
        ("part", "closed", "kept", 2),
        ("part", "open", "destroyed", 0),
    ],
)
def test_no_channel_outlives_the_interpreter(tmp_path: Path, group: str, state: str, world: str, left: int) -> None:
    """A thread of one would abort the process now and then. The program's own groups are its own."""
    program = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "meeting_point"), group, state, world]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(line) for line in done.stdout.split()] == [1 if group == "whole" else 2, left]


@pytest.mark.parametrize(("size", "said"), [("2", True), ("1", False), ("", False), ("many", False)])
def test_one_of_several_processes_that_know_of_no_other_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, size: str, said: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    say_if_alone()
    assert ("one of 2 (WORLD_SIZE)" in caplog.text) == said
