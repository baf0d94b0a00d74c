"""The demo as `make demo` runs it, with few steps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lrpilot
import pytest

LRPILOT = Path(sys.executable).with_name("lrpilot")
N_STEPS = 800
"""The fewest that the policy accepts."""
TIMEOUT_S = 150


def start(out: Path, n_steps: int) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LRPILOT_")}
    return subprocess.Popen(
        [LRPILOT, "demo", "--out", out, "--steps", str(n_steps)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )


def processes_of(out: Path) -> list[str]:
    """Command lines of live processes that name the directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended meanwhile
            continue
        if str(out) in command:
            found.append(command)
    return found


@pytest.mark.slow
def test_the_demo_compares_and_leaves_its_results(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo = start(out, N_STEPS)
    shown, errors = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 0, errors
    summary = json.loads((out / "summary.json").read_text())
    assert summary["total_steps"] == N_STEPS
    contestants = {contestant["name"]: contestant for contestant in summary["contestants"]}
    assert {"autolrs", "constant", "cosine", "linear decay"} <= contestants.keys()
    for name, contestant in contestants.items():
        assert contestant["committed_steps"] + contestant["search_steps"] == N_STEPS
        # No contestant can have learnt nothing: a tenth would be chance.
        assert contestant["validation_accuracy"] > 0.5
        assert f"{contestant['validation_loss']:.4f}" in shown
        assert name in shown
    assert "without a sweep" in shown

    tuned = contestants["autolrs"]
    assert tuned["search_steps"] > 0
    assert all(contestants[name]["search_steps"] == 0 for name in ("constant", "cosine", "linear decay"))
    schedule = lrpilot.Schedule.load(out / "schedule.json")
    assert (schedule.job_id, schedule.n_steps) == (tuned["job_id"], tuned["committed_steps"])
    assert sum(len(probe.losses) for probe in schedule.probes) == tuned["search_steps"]
    assert (out / "schedule.png").read_bytes().startswith(b"\x89PNG")
    assert processes_of(out) == []


@pytest.mark.slow
def test_too_few_steps_are_refused_in_one_line(tmp_path: Path) -> None:
    demo = start(tmp_path, 100)
    _, errors = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 2
    assert len(errors.splitlines()) == 1
    assert "total_steps" in errors
    assert processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_demo_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    demo = start(tmp_path, 100_000)
    assert demo.stdout is not None
    assert demo.stderr is not None
    with demo:
        for line in demo.stdout:
            if line.startswith("autolrs: "):  # server and trainer are at work
                break
        assert len(processes_of(tmp_path)) == 3
        demo.send_signal(number)
        demo.communicate(timeout=TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(tmp_path) == []
