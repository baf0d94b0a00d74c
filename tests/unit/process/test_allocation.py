"""What a large answer took goes back to the system, though small things that came meanwhile stay."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os
from tuner_server.process.allocation import give_back_memory

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

give_back_memory()
bytearray(8 * 2**20)  # the C library learns from it that large blocks come and go
large, small = [], []
for _ in range(50):
    large.append(bytearray(b"x" * 2**21))
    small.append(bytes(100_000))
before = resident()
large.clear()
print((before - resident()) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
@pytest.mark.parametrize(("setting", "given_back"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_large_blocks_are_given_back_unless_the_environment_has_settings_of_its_own(
    setting: dict[str, str], given_back: bool
) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    environment = inherited | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | setting
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 80) is given_back
