"""A fault at every operation on a database's files: what was acknowledged is there, nothing is by half, and it goes on.

The workload: upgrade a file of an earlier schema, open a job, report, go back, report anew, prune, back up, cancel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty_disk import shim
from tests.support.faulty_disk.shim import Fault
from tests.support.repository import old_databases

SOME = 197
"""The default suite strikes at every so-manieth operation."""


def sweep(version: str, every: int, directory: Path) -> Any:
    """Strikes at a workload that begins with a file of that schema."""
    command = [sys.executable, "-m", "tests.support.faulty_disk.sweep", str(old_databases.FILES[version])]
    environment = os.environ | {
        "LD_PRELOAD": str(shim.build(directory)),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [*command, "--every", str(every)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_faults_at_some_operations_break_nothing(tmp_path: Path) -> None:
    found = sweep(max(old_databases.FILES), SOME, tmp_path)
    assert found["wrong"] == []
    assert set(found["faults"]) == {fault.name for fault in Fault}
    assert found["operations"] > 100


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("version", [min(old_databases.FILES), max(old_databases.FILES)])
def test_a_fault_at_any_operation_breaks_nothing(version: str, tmp_path: Path) -> None:
    found = sweep(version, 1, tmp_path)
    assert found["wrong"] == []
    assert sum(found["faults"].values()) == len(Fault) * found["operations"]


def test_without_a_compiler_it_is_said_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no C compiler"):
        shim.build(tmp_path)
